"""How often the examples of each file stand in an epoch.

A file of n examples and weight w gives round(w n) of them, in file order: each example floor(w) times, and the
rest, a share w - floor(w), once more. Which ones depends on the seed and on their place in the file alone, so
they are the same in every epoch and on every machine. No weight above 0 gives nothing: at least one example
of each file is trained.

    weight 2      a a b b c c d d          weight 0.5    b d          weight 1.5    a b b c d d
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glm_train.data.report import PrepareReport
from glm_train.data.store import ExampleStore


def weigh(store: ExampleStore, weights: Mapping[Path, float], seed: int) -> ExampleStore:
    """The store with each example as often as the weight of its file says.

    Args:
        store: examples in the order of their files.
        weights: of each of these files, above 0; a file that is not named has 1.
    """
    weights = {path: weight for path, weight in weights.items() if weight != 1}
    if not weights:
        return store
    copies = np.ones(len(store), np.int64)
    lines = []
    place = {name: index for index, name in enumerate(store.report.files)}

    def file_of(example: int) -> int:
        return place[store.source(example)[0]]

    for path, weight in weights.items():
        every = range(len(store))
        file = place[str(path)]
        first = bisect_left(every, file, key=file_of)
        last = bisect_right(every, file, lo=first, key=file_of)
        copies[first:last] = _copies(last - first, weight, seed)
        stand = int(copies[first:last].sum())
        lines.append(
            f"{path}: weight {weight:g}, {last - first:,} examples stand {stand:,} times in an epoch"
        )
    weighted = store.select(np.repeat(np.arange(len(store)), copies))
    weighted.report = _report(weighted, tuple(lines))
    return weighted


def _copies(examples: int, weight: float, seed: int) -> np.ndarray:
    """How often each of a file's examples stands in an epoch, (examples,) int64."""
    whole = math.floor(weight)
    copies = np.full(examples, whole, np.int64)
    more = math.floor((weight - whole) * examples + 0.5)
    if examples and not whole:
        more = max(more, 1)
    if more:
        copies[sorted(range(examples), key=lambda row: _rank(row, seed))[:more]] += 1
    return copies


def _rank(row: int, seed: int) -> bytes:
    """A number of its own for each row, drawn from the seed."""
    return hashlib.blake2b(row.to_bytes(8, "little"), digest_size=8, key=str(seed).encode()).digest()


def _report(store: ExampleStore, lines: tuple[str, ...]) -> PrepareReport:
    report = WeightedReport(**vars(store.report), weights=lines)
    return replace(
        report,
        examples=len(store),
        tokens=int(store.lengths.sum()),
        trained_tokens=int(store.trained.sum()),
    )


@dataclass(frozen=True)
class WeightedReport(PrepareReport):
    """A report whose examples and tokens are those of one epoch, with a line for each weight."""

    weights: tuple[str, ...] = ()

    def losses(self) -> list[str]:
        return [*self.weights, *super().losses()]
