"""Sequence classification: one text or two become tokens, and their label a number for each output of the head.

Two texts are one document, a line break between them (GLM-4 has no token that separates texts):

    [gMASK] <sop> Is it raining ? \\n No , it is not .       the class is read at the last token
    prefix        text            |  pair

The prefix is the one that the folder's tokenizer puts before a text; many GLM-4 folders have none. Spellings of control
tokens in a text stay text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from glm_train.data.encode import TOO_LONG, Encoded
from glm_train.data.prepare import PrepareOptions, prepare
from glm_train.data.sequence_labels import SequenceLabels
from glm_train.data.sequence_records import DEFAULT_KEYS, SequenceKeys, parse_sequence, parse_texts
from glm_train.data.store import ExampleStore
from glm_train.data.tally import Wording
from glm_train.errors import CheckpointError, ConfigError, DataError, nearest
from glm_train.text.chat_words import word_encoder
from glm_train.text.tokenizer import GlmTokenizer

__all__ = [
    "SequenceEncoder",
    "SequenceKeys",
    "SequenceTooLong",
    "parse_sequence",
    "parse_texts",
    "prepare_sequence",
    "sequence_ids",
]

TRUNCATIONS = ("end", "start", "drop", "error")
SEPARATOR = "\n"  # between the two texts of a pair
_TEXTS = Wording(
    cut="cut {} texts to data.max_length",
    size="{examples:,} texts, {tokens:,} tokens",
    targets="{:,.0f} texts",
    layout="Name its keys or columns with data.text_key and data.label_key",
    length="Raise data.max_length, set data.truncation=end, or change the data",
)


class SequenceTooLong(DataError):
    """A text that is longer than `max_length` and must not be cut."""


def prepare_sequence(
    files: Sequence[str | Path],
    tokenizer: GlmTokenizer,
    labels: SequenceLabels,
    *,
    keys: SequenceKeys = DEFAULT_KEYS,
    max_length: int | None = None,
    truncation: str = "end",
    **options: Unpack[PrepareOptions],
) -> ExampleStore:
    """Texts with labels as tokenised examples, from the cache if they were prepared before.

    Args:
        labels: those of the training data, or of the model: see `sequence_labels.discover_labels`.
        keys: which keys of a record hold what.
        max_length: tokens of one example, the prefix among them.
        truncation: of longer ones: `end` or `start` is cut off, counted in the report; `drop` leaves the record out,
            counted too; `error` refuses it.
        options: see `prepare.PrepareOptions`.

    Raises:
        ConfigError: an unknown `truncation`, or a `max_length` without room for a text.
        DataError: a file or record cannot be used (the first one, with file and line): a text or label is missing,
            or a label is not among `labels`.
    """
    encoder = SequenceEncoder(tokenizer, labels, keys, max_length, truncation)
    return prepare(files, encoder, wording=_TEXTS, **options)


def sequence_ids(
    tokenizer: GlmTokenizer,
    text: str,
    pair: str | None = None,
    max_length: int | None = None,
    truncation: str = "end",
) -> tuple[list[int], bool]:
    """The token ids of one example as it is trained and predicted, and whether it was cut to `max_length`.

    Of two texts the longer one is cut first, then both alike, as `longest_first` does in transformers; the prefix and
    the line break stay.

    Raises:
        SequenceTooLong: it is too long, and `truncation` is `drop` or `error`.
        DataError: there is no token in it.
    """
    prefix, suffix, encode = _frame(tokenizer)
    body = encode(text if pair is None else text + SEPARATOR + pair)
    length = len(prefix) + len(body) + len(suffix)
    cut = max_length is not None and length > max_length
    if max_length is not None and cut:
        if truncation not in ("end", "start"):
            raise SequenceTooLong(
                f"the text has {length} tokens, and data.max_length is {max_length}."
                " Raise data.max_length, or set data.truncation to end, start or drop."
            )
        room = max(max_length - len(prefix) - len(suffix), 0)
        body = _shortened(text, pair, encode, room, truncation)
    if not body:
        raise DataError("no token is left of the text. Write one, or raise data.max_length.")
    return [*prefix, *body, *suffix], cut


def _shortened(
    text: str, pair: str | None, encode: Callable[[str], list[int]], room: int, end: str
) -> list[int]:
    """The tokens of a text, or of two and the line break, of which at most `room` stay."""
    first = encode(text)
    if pair is None:
        return _cut(first, room, end)
    second, separator = encode(pair), encode(SEPARATOR)
    n, m = longest_first(len(first), len(second), max(room - len(separator), 0))
    return [*_cut(first, n, end), *separator, *_cut(second, m, end)]


def longest_first(n: int, m: int, room: int) -> tuple[int, int]:
    """How many tokens stay of two texts of `n` and `m`: the longer is cut first, then both to halves of `room`.

    Where `room` is odd, the longer text has one token more; of two equal ones the second.
    """
    if n + m <= room:
        return n, m
    short = min(n, m, room // 2)
    return (short, room - short) if n <= m else (room - short, short)


def _cut(ids: list[int], length: int, end: str) -> list[int]:
    return ids[:length] if end == "end" else ids[len(ids) - min(length, len(ids)) :]


@lru_cache(maxsize=4)
def _frame(tokenizer: GlmTokenizer) -> tuple[list[int], list[int], Callable[[str], list[int]]]:
    """What the folder's tokenizer puts before and behind a text, and what encodes ordinary text."""
    plain = tokenizer.encode_plain("a")
    framed = tokenizer("a")["input_ids"]
    for begin in range(len(framed) - len(plain) + 1):
        end = begin + len(plain)
        if framed[begin:end] == plain:
            words = word_encoder(tokenizer)
            return framed[:begin], framed[end:], words.encode if words else tokenizer.encode_plain
    raise CheckpointError(
        f"{tokenizer!r}: its post-processor changes the tokens of a text. Use the tokenizer of the model's own release"
    )


@dataclass(frozen=True)
class SequenceEncoder:
    """Records of one or two texts and a label, as tokens and what `SequenceLabels.encode` makes of the label.

    Raises:
        ConfigError: an unknown `truncation`, or a `max_length` without room for a text.
    """

    tokenizer: GlmTokenizer
    labels: SequenceLabels
    keys: SequenceKeys = DEFAULT_KEYS
    max_length: int | None = None
    truncation: str = "end"

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise ConfigError(
                f"data.truncation={self.truncation!r} is unknown. Use one of: {', '.join(TRUNCATIONS)}."
                f"{nearest(self.truncation, TRUNCATIONS)}"
            )
        prefix, suffix, encode = _frame(self.tokenizer)
        needed = len(prefix) + len(suffix) + len(encode(SEPARATOR)) + 2  # two texts of a token each
        if self.max_length is not None and self.max_length < needed:
            raise ConfigError(
                f"data.max_length={self.max_length} leaves no room for a text: {needed} at least."
            )

    def __call__(self, value: dict[str, Any]) -> list[Encoded]:
        text, pair, label = parse_sequence(value, self.keys, self.labels.problem)
        targets = self.labels.encode(label)  # before the length: a wrong label is never dropped unseen
        try:
            ids, cut = sequence_ids(self.tokenizer, text, pair, self.max_length, self.truncation)
        except SequenceTooLong:
            if self.truncation != "drop":
                raise
            return [Encoded(dropped=TOO_LONG)]
        return [Encoded(np.asarray(ids, np.int32), targets, 1, cut=cut)]

    def settings(self) -> dict[str, Any]:
        return {
            "task": "sequence_classification",
            "tokenizer": self.tokenizer.fingerprint,
            "labels": [self.labels.problem, self.labels.ids_allowed, *self.labels.names],
            "keys": [self.keys.text, self.keys.pair, self.keys.label, self.keys.separator],
            "separator": SEPARATOR,
            "max_length": self.max_length,
            "truncation": self.truncation,
        }
