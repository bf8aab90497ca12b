"""Scores as plain text that lines up, also where names are Chinese: a wide character takes two columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LONGEST_NAME = 24  # columns; what is longer ends in an ellipsis
MOST_CLASSES = 12  # of a confusion matrix; the others share one row and one column


@dataclass(frozen=True)
class Table:
    """A header and rows of cells, as text; `str()` lines them up, the first column left and the others right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [[_shortened(cell) for cell in line] for line in (self.header, *self.rows)]
        widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
        return "\n".join([self.title, *(_line(cells, widths) for cells in lines)])


def score_table(scores: Mapping[str, float], title: str = "scores by label") -> Table:
    """A row a label from a flat dict of scores (`f1/LOC`, `support/LOC`, ...), in the dict's order.

    Empty where the dict has no scores of single labels.
    """
    by_label: dict[str, dict[str, float]] = {}
    for key, value in scores.items():
        measure, slash, label = key.partition("/")  # a label may hold a slash, a measure does not
        if slash:
            by_label.setdefault(label, {})[measure] = value
    measures = list(dict.fromkeys(measure for row in by_label.values() for measure in row))
    rows = tuple(
        (label, *(_number(measure, row.get(measure)) for measure in measures))
        for label, row in by_label.items()
    )
    return Table(title, ("label", *measures), rows)


def confusion_table(
    counts: np.ndarray, names: Sequence[str], most: int = MOST_CLASSES, title: str = "confusion"
) -> Table:
    """A confusion matrix: counts (L, L), `[gold, predicted]`.

    With more than `most` labels, those that occur most stand in their order, and the others are summed in a last row
    and column.
    """
    counts = np.asarray(counts)
    names = list(names)
    if len(names) > most:
        common = counts.sum(0) + counts.sum(1)
        kept = np.sort(np.argsort(-common, kind="stable")[: most - 1])
        group = np.full(len(names), len(kept))
        group[kept] = np.arange(len(kept))
        merged = np.zeros((most, most), counts.dtype)
        np.add.at(merged, (group[:, None], group[None, :]), counts)
        counts, names = merged, [*(names[i] for i in kept), f"({len(names) - len(kept)} others)"]
    rows = tuple(
        (name, *(f"{count:,}" if count else "." for count in row))
        for name, row in zip(names, counts.tolist(), strict=True)
    )
    return Table(f"{title} (rows: gold, columns: predicted)", ("", *names), rows)


def _number(measure: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if measure == "support" else f"{value:.4f}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    pads = [" " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)]
    parts = [cells[0] + pads[0], *(pad + cell for pad, cell in zip(pads[1:], cells[1:], strict=True))]
    return "  ".join(parts).rstrip()


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _shortened(text: str) -> str:
    """At most `LONGEST_NAME` columns of printable characters."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    if _width(text) <= LONGEST_NAME:
        return text
    while _width(text) > LONGEST_NAME - 1:
        text = text[:-1]
    return text + "…"
