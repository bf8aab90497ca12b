"""The labels of sequence classification: which there are, in which order, and what the head learns of one.

    single_label    a class id                  "pos"      -> [1]          of ("neg", "pos")
    multi_label     a flag for each name        ["c", "a"] -> [1, 0, 1]    of ("a", "b", "c")
    regression      the bits of float32 values  3.5        -> [0x40600000]

Names stand in sorted order, numbers by value; or in the order of `task.labels`, or of the `ClassLabel` feature that
`datasets` wrote into the files.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from glm_train.data.sequence_records import Label, Tag, is_number
from glm_train.errors import ConfigError, DataError, nearest

PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_SHOWN = 12  # names in a message


@dataclass(frozen=True)
class SequenceLabels:
    """The outputs of a head for sequence classification.

    Attributes:
        names: one for each output; of regression `LABEL_0`, ...
        problem: `single_label`, `multi_label` or `regression`.
        counts: records of the training files with each label; () where they were not counted.
        examples: these records in all.
        ids_allowed: whether a number may mean the name with this id. So it is where the user or a model says which
            name has which id; where names were found, a number among them is a name.
    """

    names: tuple[str, ...]
    problem: str = "single_label"
    counts: tuple[int, ...] = ()
    examples: int = 0
    ids_allowed: bool = False
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {name: index for index, name in enumerate(self.names)})
        numbers = any(is_number(name) for name in self.names)  # then a number is a name of its own
        object.__setattr__(self, "ids_allowed", self.ids_allowed and not numbers)

    @classmethod
    def of_model(cls, id2label: dict[int, str], problem_type: str | None) -> SequenceLabels:
        """The labels that a model's config.json holds. Without a `problem_type`, one output is regression."""
        names = tuple(id2label[index] for index in sorted(id2label))
        known = {long: short for short, long in PROBLEM_TYPES.items()}
        problem = known.get(problem_type or "", "single_label" if len(names) > 1 else "regression")
        return cls(names, problem, ids_allowed=True)

    def config_changes(self) -> dict[str, Any]:
        """What a `GlmConfig` is to say of the head: `num_labels`, `id2label`, `label2id`, `problem_type`."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": dict(self._ids),
            "problem_type": PROBLEM_TYPES[self.problem],
        }

    def encode(self, label: Label) -> np.ndarray:
        """What the head learns of one label: int32, (1,), (L,) flags, or the bits of (k,) float32.

        Raises:
            DataError: without a place; an unknown name, or no number of the right count.
        """
        if self.problem == "regression":
            return self._values(label)
        if self.problem == "multi_label":
            flags = np.zeros(len(self.names), np.int32)
            flags[[self.id_of(tag) for tag in (label if isinstance(label, list) else [label])]] = 1
            return flags
        if isinstance(label, list):
            raise DataError(
                f"the label is a list, {label!r:.60}, and the other records have one label each."
                " Write one name, or set task.problem=multi_label."
            )
        return np.array([self.id_of(label)], np.int32)

    def id_of(self, tag: Tag) -> int:
        """The class id of one label."""
        name = tag if isinstance(tag, str) else str(tag)
        if name in self._ids:
            return self._ids[name]
        if self.ids_allowed and name.isascii() and name.isdigit() and len(name) < 10:
            if int(name) < len(self.names):
                return int(name)
            raise DataError(f"the label {name} is no id of a label: there are {len(self.names)}, from 0.")
        raise DataError(
            f"the label {name[:60]!r} is not among the {len(self.names)} labels: {shown(self.names)}."
            f"{nearest(name[:60], self.names)} Correct it, or name all labels with task.labels."
        )

    def _values(self, label: Label) -> np.ndarray:
        tags = label if isinstance(label, list) else [label]
        if len(tags) != len(self.names):
            raise DataError(
                f"the label has {len(tags)} numbers, and {len(self.names)} are predicted. Write as many for each text."
            )
        values = np.array([number(tag) for tag in tags], np.float64)
        if (np.abs(values) > np.finfo(np.float32).max).any():
            raise DataError(f"the label {label!r:.60} is larger than any float32. Scale the labels down.")
        return values.astype(np.float32).view(np.int32)

    def __str__(self) -> str:
        kind = {"single_label": "one of", "multi_label": "any of"}.get(self.problem)
        if kind is None:
            return f"regression, {len(self.names)} number{'s' if len(self.names) > 1 else ''} a text"
        counts = self.counts or (None,) * len(self.names)
        known = [
            name if count is None else f"{name} ({count:,})"
            for name, count in zip(self.names, counts, strict=True)
        ]
        return f"{kind} {len(self.names)} labels: {shown(known, quoted=False)}"


def number(tag: Tag) -> float:
    """The number that a label is, as a number or as text. `DataError` where it is none, or not finite."""
    if isinstance(tag, str) and not is_number(tag):
        hint = " Write a decimal point, not a comma." if is_number(tag.replace(",", ".", 1)) else ""
        raise DataError(f"the label {tag[:60]!r} is not a number.{hint} Correct it, or set task.problem.")
    try:
        value = float(tag)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise DataError(f"the label {str(tag)[:60]} is larger than any number. Scale the labels down.")
    return value


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Sorted: numbers by value where all are numbers, else by their characters."""
    if all(map(is_number, names)):
        return tuple(sorted(names, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(names))


def looks(name: str) -> Hashable:
    """Equal for labels that a reader takes for the same: other case, width or white space; 1 and 1.0."""
    if is_number(name):
        return Decimal(name)
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def shown(names: Sequence[str], *, quoted: bool = True) -> str:
    """The first names, for a message."""
    first = ", ".join(repr(name[:60]) if quoted else name[:60] for name in names[:_SHOWN])
    return first + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def class_weights(counts: Sequence[int]) -> np.ndarray:
    """`task.class_weights=balanced`: n / (K n_c) for each of the K classes that occur, float32 (L,).

    The mean over the n examples is 1, so the loss keeps its size. A class that does not occur weighs 1.

        counts 6, 2, 0    ->    8 / (2 * 6), 8 / (2 * 2), 1  =  0.667, 2, 1
    """
    found = np.asarray(counts, np.float64)
    if found.ndim != 1 or not (found >= 0).all() or not found.any():
        raise ValueError(f"class weights need the count of each class, and one above 0, not {counts!r}")
    used = found > 0
    weights = np.ones(len(found))
    weights[used] = found.sum() / (used.sum() * found[used])
    return weights.astype(np.float32)


def given_labels(names: Sequence[str]) -> tuple[str, ...]:
    """The names of `task.labels`, without white space around them. `ConfigError` for one that is empty or twice."""
    cleaned = tuple(str(name).strip() for name in names)
    if not all(cleaned):
        raise ConfigError("task.labels holds an empty name. Write a name for each label.")
    if twice := {name for name in cleaned if cleaned.count(name) > 1}:
        raise ConfigError(f"task.labels names {min(twice)!r} twice. Name each label once.")
    return cleaned
