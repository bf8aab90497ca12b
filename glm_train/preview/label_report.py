"""How often each label comes in the examples of a run of classification, and what is wrong with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from glm_train.data.mask_checks import find_duplicates
from glm_train.data.store import CONTINUES, ExampleStore, token_digest
from glm_train.preview.steps import leakage_faults

OUTSIDE = "O"
TOKENS, SINGLE, SEVERAL, NUMBERS = "tokens", "single_label", "multi_label", "regression"
_BAR, _SHOWN = 40, 40


def describe(
    stores: dict[str, ExampleStore], names: Sequence[str], problem: str, leakage: float
) -> LabelReport:
    """The report of `train` and, where there is one, `validation`. See `LabelPreview`."""
    train, validation = stores["train"], stores.get("validation")
    duplicates = find_duplicates(train, validation)
    splits = {name: _describe(store, names, problem) for name, store in stores.items()}
    return LabelReport(
        splits["train"],
        splits.get("validation"),
        duplicates.in_training,
        duplicates.in_both,
        leakage_faults(duplicates, validation, leakage),
        [note for name, split in splits.items() for note in _notes(name, split)],
    )


def type_of(name: str) -> str:
    """The type of entity that a class is of: of `B-PER` and `I-PER` it is `PER`; others are their own."""
    return name[2:] if name[:2] in ("B-", "I-") else name


@dataclass(frozen=True)
class LabelSplit:
    """One store of examples. `counts` are words of token classification, texts of sequence classification."""

    records: int
    examples: int
    windows: int  # examples that are a further window of a long document
    tokens: int
    trained: int
    longest: int
    counts: dict[str, int]
    entities: dict[str, int]  # of token classification
    values: dict[str, float]  # of regression: mean, deviation, least, most
    dropped: dict[str, int]
    losses: list[str] = field(default_factory=list)  # what of the files is not trained on, in words
    contradictions: int = 0  # texts that stand more than once, and not always with the same label
    first_contradiction: str = ""


@dataclass(frozen=True)
class LabelReport:
    """The whole preview; `faults` are the broken rules, one line each, and `notes` what may be on purpose."""

    train: LabelSplit
    validation: LabelSplit | None
    duplicates_in_training: int
    validation_also_in_training: int
    faults: list[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """The report in words, a subject a line."""
        lines = split_lines("train", self.train)
        lines.append(f"{'':12}{self.duplicates_in_training:,} examples are copies of another one")
        if self.validation is not None:
            lines += split_lines("validation", self.validation)
            lines.append(f"{'':12}{self.validation_also_in_training:,} examples are also in training")
        return [*lines, *(f"{'note':<12}{note}" for note in self.notes)]


def _describe(store: ExampleStore, names: Sequence[str], problem: str) -> LabelSplit:
    counts: Counter[int] = Counter()
    rows: list[np.ndarray] = []
    seen: dict[bytes, bytes] = {}
    contrary: dict[bytes, int] = {}
    for index in range(len(store)):
        ids, labels = store[index]
        if problem in (SINGLE, SEVERAL):
            text, label = token_digest(ids), labels.tobytes()
            if seen.setdefault(text, label) != label:
                contrary.setdefault(text, index)
        if problem == TOKENS:
            counts.update(labels[(labels >= 0) & (labels < CONTINUES)].tolist())
        elif problem == SEVERAL:
            counts.update(np.flatnonzero(labels).tolist())
        elif problem == SINGLE:
            counts[int(labels[0])] += 1
        else:
            rows.append(np.ascontiguousarray(labels).view(np.float32))
    named = {} if problem == NUMBERS else {name: counts[number] for number, name in enumerate(names)}
    made = store.report
    return LabelSplit(
        records=made.records,
        examples=len(store),
        windows=sum(store.part(index) > 0 for index in range(len(store))) if problem == TOKENS else 0,
        tokens=int(store.lengths.sum()),
        trained=int(store.trained.sum()),
        longest=int(store.lengths.max()),
        counts=named,
        entities={name[2:]: n for name, n in named.items() if problem == TOKENS and name[:2] == "B-"},
        values=_values(rows),
        dropped=dict(made.dropped),
        losses=made.losses(),
        contradictions=len(contrary),
        first_contradiction=":".join(map(str, store.source(min(contrary.values())))) if contrary else "",
    )


def _notes(split: str, described: LabelSplit) -> list[str]:
    missing = [name for name, count in (described.entities or described.counts).items() if not count]
    notes = []
    if missing:
        more = " and others" if missing[_SHOWN:] else ""
        notes.append(f"{split}: no example has {', '.join(missing[:_SHOWN])}{more}")
    if described.contradictions:
        notes.append(
            f"{split}: {described.contradictions:,} texts stand more than once with different labels"
            f" (first: {described.first_contradiction})"
        )
    return notes


def _values(rows: list[np.ndarray]) -> dict[str, float]:
    if not rows:
        return {}
    values = np.stack(rows).astype(np.float64)
    measures = {"mean": values.mean(), "deviation": values.std(), "least": values.min(), "most": values.max()}
    return {name: float(value) for name, value in measures.items()}


def split_lines(name: str, split: LabelSplit) -> list[str]:
    windows = f", {split.windows:,} of them further windows of long documents" if split.windows else ""
    lines = [
        f"{name:<12}{split.examples:,} examples{windows}, {split.tokens:,} tokens, longest {split.longest:,}",
        f"{'':12}{split.trained:,} labelled",
    ]
    if split.values:
        lines.append(f"{'':12}" + ", ".join(f"{key} {value:g}" for key, value in split.values.items()))
    shown = split.entities or split.counts
    most = max(shown.values(), default=0)
    width = min(24, max(map(len, shown), default=0))
    for label, count in list(shown.items())[:_SHOWN]:
        lines.append(f"{'':12}{label:<{width}}  {count:>9,}  {'#' * -(-_BAR * count // max(most, 1))}")
    if len(shown) > _SHOWN:
        lines.append(f"{'':12}and {len(shown) - _SHOWN:,} labels more")
    return [*lines, *(f"{'':12}{line}" for line in split.losses)]
