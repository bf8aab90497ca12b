"""Answers of sequence classification: the label of a text, its labels, or its values. M documents, L labels.

{"line": 1, "label": "pos", "score": 0.93, "scores": {"neg": 0.07, "pos": 0.93}}
{"line": 1, "labels": ["a", "c"], "scores": {"a": 0.8, "b": 0.1, "c": 0.6}}        several labels
{"line": 1, "value": 3.5}    or    {"line": 1, "values": [3.5, 0.25]}              regression
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glm_train.data.readers.record import Item
from glm_train.data.records import read_items
from glm_train.data.sequence_examples import SequenceEncoder, SequenceKeys, parse_texts, sequence_ids
from glm_train.data.sequence_labels import SequenceLabels
from glm_train.errors import ConfigError
from glm_train.predict.batches import Job, answer_all, jobs_of, read_texts
from glm_train.predict.output import PredictOptions, Summary

if TYPE_CHECKING:
    from glm_train.trained_model import TrainedModel


def predict_sequence(trained: TrainedModel, source: Path, output: Path, options: PredictOptions) -> Summary:
    """Write an answer for each record of `source`; labels that it may have are not read.

    Raises `ConfigError` for a setting that does not fit, `DataError` where no record can be read.
    """
    data: Any = options.config.data
    config = trained.model.config
    labels = SequenceLabels.of_model(config.id2label, config.problem_type)
    keys = SequenceKeys() if is_text(source) else SequenceKeys(data.text_key, data.pair_key)
    SequenceEncoder(trained.tokenizer, labels, keys, data.max_length, data.truncation)  # refuses bad settings
    answer = _answer(labels, options.threshold)
    cut = 0

    def encode(value: dict[str, Any]) -> Job:
        nonlocal cut
        text, pair = parse_texts(value, keys)
        ids, shortened = sequence_ids(trained.tokenizer, text, pair, data.max_length, data.truncation)
        cut += shortened
        return Job(0, [(np.asarray(ids, np.int32), np.array([len(ids) - 1]))])

    jobs = jobs_of(sequence_items(source), encode)
    summary = answer_all(trained, jobs, answer, source, output, options)
    if cut:
        summary.notes.append(f"cut to data.max_length={data.max_length}: {cut:,} of the texts")
    return summary


def sequence_items(source: Path) -> Iterator[Item]:
    """The records of a file. Raises `DataError` at once where it is none that is read."""
    return read_items(source, read_texts) if is_text(source) else read_items(source)


def is_text(source: Path) -> bool:
    """Whether a file is plain text by its name: one text a line."""
    return source.suffix.lower() in (".txt", ".text")


def check_threshold(threshold: float | None, problem: str) -> None:
    """Refuse a threshold that is none, or that nothing is compared with."""
    if threshold is None:
        return
    if not 0 < threshold < 1:
        raise ConfigError(f"--threshold {threshold}: must be above 0 and below 1")
    if problem != "multi_label":
        raise ConfigError(
            f"--threshold is for models that give several labels to one text; the problem of this one is {problem}"
        )


def _answer(labels: SequenceLabels, threshold: float | None) -> Callable[[Any, np.ndarray], dict[str, Any]]:
    check_threshold(threshold, labels.problem)
    names = labels.names

    def values(_: Any, logits_ML: np.ndarray) -> dict[str, Any]:
        found = logits_ML[0].tolist()
        return {"value": found[0]} if len(found) == 1 else {"values": found}

    def several(_: Any, logits_ML: np.ndarray) -> dict[str, Any]:
        chances = sigmoid(logits_ML[0]).tolist()
        scores = dict(zip(names, chances, strict=True))
        return {"labels": [n for n, p in scores.items() if p >= (threshold or 0.5)], "scores": scores}

    def one(_: Any, logits_ML: np.ndarray) -> dict[str, Any]:
        best = int(logits_ML[0].argmax())
        chances = softmax(logits_ML)[0].tolist()
        return {
            "label": names[best],
            "score": chances[best],
            "scores": dict(zip(names, chances, strict=True)),
        }

    return {"regression": values, "multi_label": several}.get(labels.problem, one)


def softmax(logits_ML: np.ndarray) -> np.ndarray:
    """Probabilities (M, L) in fp64, which add up to 1 in each row."""
    powers_ML = np.exp(logits_ML.astype(np.float64) - logits_ML.max(1, keepdims=True))
    return powers_ML / powers_ML.sum(1, keepdims=True)


def sigmoid(logits_L: np.ndarray) -> np.ndarray:
    """The probability of each label by itself, in fp64, exact at both ends."""
    small_L = np.exp(-np.abs(logits_L.astype(np.float64)))
    return np.where(logits_L >= 0, 1 / (1 + small_L), small_L / (1 + small_L))
