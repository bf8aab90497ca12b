"""Answers of token classification: the entities of a text, or a tag for each token. W words, L labels.

    {"line": 1, "entities": [{"start": 0, "end": 8, "type": "PER", "score": 0.98, "text": "Anna Lee"}]}
    {"line": 1, "tokens": ["Anna", "Lee", "sang"], "tags": ["B-PER", "I-PER", "O"],
     "entities": [{"start": 0, "end": 2, "type": "PER", "score": 0.98, "text": "Anna Lee"}]}

The second is for records that come in tokens, CoNLL among them. `start` and `end` (exclusive) count characters of the
text in the first and tokens in the second. A score is the mean probability of the entity's tags. Where the labels of
the model are no B- and I- (parts of speech), there are no entities; a text then has the `tokens` that were found in it,
their `tags`, and their `offsets` in characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glm_train.build_data import TokenLabels, prepare_for
from glm_train.data.readers.record import Item
from glm_train.data.records import SUFFIXES, read_items
from glm_train.data.token_examples import token_windows, window_room
from glm_train.data.token_files import TokenReader
from glm_train.data.token_records import TokenRecord, parse_tokens
from glm_train.predict.batches import Job, answer_all, jobs_of, read_texts
from glm_train.predict.output import PredictOptions, Summary
from glm_train.predict.sequence import is_text, softmax
from glm_train.tagging.decode import viterbi
from glm_train.tagging.schemes import is_iob2, read_tags

if TYPE_CHECKING:
    from glm_train.config.schema import TokenData
    from glm_train.trained_model import TrainedModel


def predict_tokens(trained: TrainedModel, source: Path, output: Path, options: PredictOptions) -> Summary:
    """Write an answer for each record of `source`; tags and entities that it may have are not read.

    Raises `ConfigError` for a setting that does not fit, `DataError` where no record can be read.
    """
    data: Any = options.config.data
    window_room(trained.tokenizer, data.max_length, data.overlap)  # refuses bad settings
    labels = trained.model.config.id2label
    names = [labels[index] for index in sorted(labels)]
    # What examples are made with, so that a document is cut as it was for training.
    made = prepare_for(options.config, trained.tokenizer, TokenLabels(tuple(names))).keywords
    cut = {key: made[key] for key in ("max_length", "overlap", "causal") if key in made}
    given = "data.format" in options.given
    conll = reads_conll(source, data, given=given)

    def encode(value: dict[str, Any]) -> Job:
        kind = "tokens" if conll else _kind(value, data.format, given=given)
        record = parse_tokens(value, kind, labelled=False)
        found = token_windows(trained.tokenizer, record.text, record.words, **cut)
        documents = [(window.ids, window.positions) for window in found]
        words = np.concatenate([window.words for window in found]) if found else np.zeros(0, np.int64)
        return Job(0, documents, what=_Words(record, words, kind == "tokens"))

    def answer(what: _Words, logits_WL: np.ndarray) -> dict[str, Any]:
        scores_WL = np.empty((len(what.record.words), len(names)), np.float32)
        scores_WL[what.order] = logits_WL.reshape(-1, len(names))
        return tagged(what.record, scores_WL, names, of_tokens=what.of_tokens)

    jobs = jobs_of(token_items(source, data, given=given), encode)
    summary = answer_all(trained, jobs, answer, source, output, options)
    if conll and is_text(source) and not given:
        summary.notes.append(
            f"{source} was read as CoNLL columns, like the run's data; data.format=auto reads one text a line"
        )
    return summary


def token_items(source: Path, data: TokenData, *, given: bool) -> Iterator[Item]:
    """The records of a file. Raises `DataError` at once where it is none that is read.

    `given` says that `data.format` is the command line's, not the training data's.
    """
    conll = reads_conll(source, data, given=given)
    if is_text(source) and not conll:
        return read_items(source, read_texts)
    column, separator = data.token_column, data.separator
    format = "conll" if conll else "auto"
    return TokenReader(format, column, data.tag_column, separator=separator, tags=False)(source)


def reads_conll(source: Path, data: TokenData, *, given: bool) -> bool:
    """Whether a file is read as CoNLL: by its name, or because the command line says so, or, where its name says
    nothing, because the run's data were."""
    named = SUFFIXES.get(source.suffix.lower())
    if given or named is None:
        return data.format == "conll" or (named == "conll" and data.format == "auto")
    return named == "conll"


def tagged(
    record: TokenRecord, scores_WL: np.ndarray, names: Sequence[str], *, of_tokens: bool
) -> dict[str, Any]:
    """The answer for one record from the logits of its words: the best tags that make sense, and their entities."""
    ids_W = viterbi(scores_WL, names)
    tags = [names[index] for index in ids_W]
    chances_W = softmax(scores_WL)[np.arange(len(ids_W)), ids_W] if len(ids_W) else np.zeros(0)
    tokens = [record.text[start:end] for start, end in record.words]
    entities = []
    for start, end, kind in read_tags(tags, "IOB2") if is_iob2(names) else ():
        characters = slice(record.words[start][0], record.words[end - 1][1])
        entities.append(
            {
                "start": start if of_tokens else characters.start,
                "end": end if of_tokens else characters.stop,
                "type": kind,
                "score": round(float(chances_W[start:end].mean()), 6),
                "text": record.text[characters],
            }
        )
    if of_tokens:
        return {"tokens": tokens, "tags": tags, "entities": entities}
    if is_iob2(names):
        return {"entities": entities}
    return {"tokens": tokens, "tags": tags, "offsets": [list(word) for word in record.words]}


@dataclass(frozen=True)
class _Words:
    """A record, its words in the order in which its windows score them, and whether it came in tokens."""

    record: TokenRecord
    order: np.ndarray  # (W,)
    of_tokens: bool


def _kind(value: dict[str, Any], format: str, *, given: bool) -> str:
    """How a record is read: `tokens` or `entities` (a text). One that has both is read like the run's data."""
    if given and format in ("tokens", "entities"):
        return format
    tokens, text = value.get("tokens") is not None, value.get("text") is not None
    if tokens and not (text and format == "entities"):
        return "tokens"
    return "entities" if text else "auto"  # the last finds the words for what is missing
