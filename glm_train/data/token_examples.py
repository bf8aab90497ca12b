"""Token classification: records become windows of tokens in which each word is labelled once.

    words     Anna     Lee     sang   in   Bratislava
    tags      B-PER    I-PER   O      O    B-LOC
    pieces    An na    _Lee   _sang  _in  _Brat is lava
    labels     1  -      2      0     0     3   -   -          - is -100

With `label_pieces="all"` the later pieces of a word have its class plus `CONTINUES`: they are trained, and scores pass
over them. A document longer than `max_length` tokens becomes several windows, each with the model's prefix; a word is
labelled in the one window in which it sees the most around it. Training and prediction cut with `token_windows` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from glm_train.data.encode import Encoded
from glm_train.data.prepare import PrepareOptions, prepare
from glm_train.data.store import CONTINUES, IGNORE, ExampleStore
from glm_train.data.tally import Wording
from glm_train.data.token_files import TokenReader
from glm_train.data.token_labels import discover_tags, scheme_name, spans_of
from glm_train.data.token_records import TokenRecord, at_word, check_format, parse_tokens
from glm_train.data.token_windows import TokenWindow, token_windows, window_room, windows_with_ends
from glm_train.errors import ConfigError, DataError, nearest
from glm_train.tagging.schemes import OUTSIDE, PLAIN, to_iob2
from glm_train.text.tokenizer import GlmTokenizer

LABEL_PIECES = ("first", "all")
NO_WORD = "no word is in it"
_WORDS = Wording(
    size="{examples:,} examples, {trained:,} words labelled of {tokens:,} tokens",
    targets="{:,.0f} words labelled",
    layout="Say how it is written with data.format, data.token_column, data.tag_column or data.scheme",
    length="Look at the data",
)
_PIECES = replace(
    _WORDS,
    size="{examples:,} examples, {trained:,} of {tokens:,} tokens labelled",
    targets="{:,.0f} labelled",
)

__all__ = [
    "LABEL_PIECES",
    "TokenEncoder",
    "TokenReader",
    "TokenWindow",
    "discover_tags",
    "parse_tokens",
    "prepare_tokens",
    "token_windows",
]


def prepare_tokens(
    files: Sequence[str | Path],
    tokenizer: GlmTokenizer,
    labels: Sequence[str],
    *,
    format: str = "auto",
    token_column: int = 0,
    tag_column: int = -1,
    separator: str = "auto",
    scheme: str = "auto",
    tag_names: Sequence[str] = (),
    max_length: int | None = None,
    overlap: int | None = None,
    label_pieces: str = "first",
    causal: bool = False,
    **options: Unpack[PrepareOptions],
) -> ExampleStore:
    """Records of token classification as tokenised windows, from the cache if they were prepared before.

    Args:
        labels: the classes, as `TagsFound.labels` has them: `O`, then B- and I- of each type.
        format: "conll" reads any suffix as CoNLL; "tokens", "entities"; "auto" goes by suffix and keys.
        token_column, tag_column, separator: as for `read_conll`.
        scheme: of the files' tags; `auto` finds the one of all `files`.
        tag_names: what tags that are numbers mean, from 0.
        max_length, overlap, causal: as for `token_windows`.
        label_pieces: "first" labels the first piece of a word, "all" all of them.
        options: see `prepare.PrepareOptions`.

    Raises:
        ConfigError: a setting that is none.
        DataError: a file or record cannot be used (the first one, with file and line), or nothing is left.
    """
    check_format(format)
    reader = TokenReader(format, token_column, tag_column, separator)
    for path in files:
        reader.check(Path(path), streaming=bool(options.get("streaming")))
    scheme = scheme_name(scheme)
    if scheme == "auto" and files:
        shared: dict[str, Any] = {
            key: options[key] for key in ("on_error", "cache_dir", "progress") if key in options
        }
        found = discover_tags(files, reader=reader, tag_names=tag_names, may_be_empty=True, **shared)
        scheme = found.scheme or "IOB2"
    encoder = TokenEncoder(
        tokenizer, tuple(labels), scheme, reader, tuple(tag_names), max_length, overlap, label_pieces, causal
    )
    wording = _PIECES if label_pieces == "all" else _WORDS
    return prepare(files, encoder, wording=wording, read=reader, **options)


@dataclass(frozen=True)
class TokenEncoder:
    """Records of token classification as windows of ids and classes; picklable. See `prepare_tokens`.

    `scheme` is a key of `tagging.schemes.SCHEMES`, or `plain`.
    """

    tokenizer: GlmTokenizer
    labels: tuple[str, ...]
    scheme: str = "IOB2"
    reader: TokenReader = field(default_factory=TokenReader)
    tag_names: tuple[str, ...] = ()
    max_length: int | None = None
    overlap: int | None = None
    label_pieces: str = "first"
    causal: bool = False

    def __post_init__(self) -> None:
        window_room(self.tokenizer, self.max_length, self.overlap)
        if self.label_pieces not in LABEL_PIECES:
            hint = nearest(self.label_pieces, LABEL_PIECES)
            raise ConfigError(
                f"data.label_pieces={self.label_pieces!r} is unknown. Use one of: first, all.{hint}"
            )

    def __call__(self, value: dict[str, Any]) -> list[Encoded]:
        record = parse_tokens(value, self.reader.format, tag_names=self.tag_names)
        if not record.words:
            return [Encoded(dropped=NO_WORD)]
        try:
            classes = self.classes(record)
            cut = windows_with_ends(
                self.tokenizer, record.text, record.words, self.max_length, self.overlap, self.causal
            )
        except DataError as error:
            raise at_word(error, value) from None
        return [self._encoded(*windowed, classes) for windowed in cut]

    def classes(self, record: TokenRecord) -> np.ndarray:
        """The class of each word of a record, (W,) int32."""
        tags = record.tags or []
        if self.scheme != PLAIN or record.entities is not None:
            spans = spans_of(tags, self.scheme) if record.entities is None else record.entities
            tags = to_iob2(spans, len(record.words))
        known = {name: number for number, name in enumerate(self.labels)}
        unknown = next((word for word, tag in enumerate(tags) if tag not in known), None)
        if unknown is not None:
            raise self._unknown(tags[unknown], unknown, record)
        return np.asarray([known[tag] for tag in tags], np.int32)

    def _encoded(self, window: TokenWindow, ends: np.ndarray, classes: np.ndarray) -> Encoded:
        labels = np.full(len(window.ids), IGNORE, np.int32)
        if self.label_pieces == "all":
            for word, begin, end in zip(window.words, window.positions, ends, strict=True):
                labels[begin:end] = classes[word] + CONTINUES
            trained = int((ends - window.positions).sum())
        else:
            trained = len(window.words)
        labels[window.positions] = classes[window.words]
        return Encoded(window.ids, labels, trained)

    def _unknown(self, tag: str, word: int, record: TokenRecord) -> DataError:
        shown = record.text[slice(*record.words[word])][:40]
        if (self.scheme != PLAIN or record.entities is not None) and not self._holds_entities():
            return DataError(
                f"word {word + 1}, {shown!r}: its tag is {tag!r}, and the labels are {', '.join(self.labels)}. Name O"
                " in task.labels, and B- and I- of each type: task.labels=[O,B-LOC,I-LOC], say."
            )
        plain = self.scheme == PLAIN or tag == OUTSIDE
        name, what = (tag, "tag") if plain else (tag[2:], "type")
        names = list(self.labels) if plain else sorted({label[2:] for label in self.labels} - {""})
        return DataError(
            f"word {word + 1}, {shown!r}: the {what} {name!r} is not among the labels: {', '.join(names)}."
            f"{nearest(name, names)} Correct the tag, or add it to task.labels."
        )

    def _holds_entities(self) -> bool:
        """Whether the labels are those of entities: `O`, and both letters of each type."""
        return OUTSIDE in self.labels and all(
            name == OUTSIDE or {f"B{name[1:]}", f"I{name[1:]}"} <= {*self.labels} for name in self.labels
        )

    def settings(self) -> dict[str, Any]:
        return {
            "task": "tokens",
            "tokenizer": self.tokenizer.fingerprint,
            "labels": list(self.labels),
            "scheme": self.scheme,
            "reader": asdict(self.reader),
            "tag_names": list(self.tag_names),
            "max_length": self.max_length,
            "overlap": self.overlap,
            "label_pieces": self.label_pieces,
            "causal": self.causal,
        }
