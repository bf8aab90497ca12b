"""Finding the labels of a run in its training files: in one pass, kept in the cache.

What the labels are says which problem it is, where `task.problem` does not:

    a list in any record                             several labels (multi_label)
    a number with a fraction, in a list or alone     regression
    numbers as text (a CSV file), one with a fraction, and no other text      regression
    anything else                                    one label (single_label)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from glm_train.bar import Progress, silent
from glm_train.data.cache import cached_value, default_cache_dir, file_digest
from glm_train.data.readers.columns import class_names
from glm_train.data.records import Fault, check_file, format_of, read_items
from glm_train.data.sequence_records import (
    DEFAULT_KEYS,
    PROBLEMS,
    Label,
    SequenceKeys,
    Tag,
    is_number,
    parse_sequence,
)
from glm_train.data.sequence_targets import (
    PROBLEM_TYPES,
    SequenceLabels,
    class_weights,
    given_labels,
    in_order,
    looks,
    shown,
)
from glm_train.errors import ConfigError, DataError, nearest

__all__ = ["PROBLEM_TYPES", "SequenceLabels", "class_weights", "discover_labels", "given_labels"]

MOST_LABELS = 1000  # different ones that are found; more are probably texts, or numbers to be predicted
FEW_RECORDS = 20  # with fewer, each may have a label of its own
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
Place = tuple[Path, int]


def discover_labels(
    files: Sequence[str | Path],
    *,
    keys: SequenceKeys = DEFAULT_KEYS,
    labels: Sequence[str] | None = None,
    problem: str = "auto",
    on_error: str = "error",
    cache_dir: str | Path | None = None,
    progress: Progress = silent,
) -> SequenceLabels:
    """The labels of the training files, with how often each occurs, from the cache if they were found before.

    Args:
        files: the training files, none for validation: a label that stands only there cannot be learnt.
        keys: which keys of a record hold what.
        labels: `task.labels`, all names in order; None to find them.
        problem: `task.problem`; "auto" to find it, see the top of this file.
        on_error: "skip" passes over faulty records, as the preparation does.

    Raises:
        ConfigError: an unknown `problem`, or names that are empty or named twice.
        DataError: with file and line: a record without a label, or one that is not among `labels`; labels that look
            alike; only one label; more than `MOST_LABELS`; numbers among names.
    """
    if problem not in PROBLEMS:
        raise ConfigError(
            f"task.problem={problem!r} is unknown. Use one of: {', '.join(PROBLEMS)}.{nearest(problem, PROBLEMS)}"
        )
    names = None if labels is None else given_labels(labels)
    paths = [Path(path) for path in files]
    for path in paths:
        check_file(path)
    skip = on_error == "skip"
    root = Path(cache_dir) if cache_dir else default_cache_dir()
    key = _key(paths, [asdict(keys), names, problem, skip])
    survey = partial(_survey, paths, keys, names, problem, skip=skip, progress=progress)
    return cached_value(root, key, survey, _labels_of)


def _key(paths: list[Path], settings: list[Any]) -> str:
    """SHA-256 over everything that decides the labels."""
    here = Path(__file__).parent
    code = [*sorted(here.glob("sequence_*.py")), *sorted((here / "readers").glob("*.py"))]
    parts = {
        "code": [file_digest(source) for source in code],
        "libraries": [version("pyarrow")],
        "files": [(format_of(path), path.stat().st_size, file_digest(path)) for path in paths],
        "settings": settings,
    }
    return "labels-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _labels_of(saved: dict[str, Any]) -> SequenceLabels:
    names, counts = tuple(saved["names"]), tuple(saved["counts"])
    return SequenceLabels(names, saved["problem"], counts, saved["examples"], saved["ids_allowed"])


def _survey(
    paths: list[Path],
    keys: SequenceKeys,
    names: tuple[str, ...] | None,
    problem: str,
    *,
    skip: bool,
    progress: Progress,
) -> SequenceLabels:
    """One pass over the files; over the first record only where it says all there is to know."""
    survey = _Survey(problem, names, _feature_names(paths, keys.label) if names is None else None)
    for path in paths:
        for item in read_items(path):
            try:
                if isinstance(item, Fault):
                    raise item.error
                survey.add(parse_sequence(item.value, keys, problem)[2], (path, item.line))
            except DataError as error:
                if not skip:
                    raise error.at(item.path, item.line) from None
                survey.first_fault = survey.first_fault or error.at(item.path, item.line)
            if problem == "regression" and survey.examples:
                return survey.result()
            if survey.examples % 1024 == 0:
                progress("labels", survey.examples, 0)
    return survey.result()


def _feature_names(paths: list[Path], key: str) -> tuple[str, ...] | None:
    """The names of the `ClassLabel` feature that all files have for the labels; None where they have none."""
    wanted = key.strip().casefold()
    found = set()
    for path in paths:
        columns = class_names(path) if format_of(path) in ("parquet", "arrow") else {}
        found.add(next((names for name, names in columns.items() if name.casefold() == wanted), None))
    return found.pop() if len(found) == 1 else None


@dataclass
class _Survey:
    """What one pass over the labels has met, with the first place of each thing."""

    problem: str
    given: tuple[str, ...] | None  # the user's names
    feature: tuple[str, ...] | None  # the data set's
    first_fault: DataError | None = None
    examples: int = 0
    width: int = 1  # labels of the first record
    names: dict[str, int] = field(default_factory=dict)  # name -> records
    places: dict[str, Place] = field(default_factory=dict)
    listed: Place | None = None
    word: Place | None = None  # text that is no number
    fraction: Place | None = None  # a number that is not whole
    typed: Place | None = None  # the same, not as text
    overflow: Place | None = None  # the first label that was one too many

    def __post_init__(self) -> None:
        fixed = None if self.problem == "regression" else self.given or self.feature
        self.known = SequenceLabels(fixed, ids_allowed=True) if fixed else None

    def add(self, label: Label, place: Place) -> None:
        """Count one record. A `DataError` without a place leaves it uncounted."""
        tags = label if isinstance(label, list) else [label]
        if self.known is not None:
            found = [self.known.names[self.known.id_of(tag)] for tag in tags]
        else:
            found = [str(tag) for tag in tags]
        if isinstance(label, list) and self.listed is None:
            self.listed = place
        self.width = self.width if self.examples else len(tags)
        self.examples += 1
        for tag in tags:
            self._note(tag, place)
        for name in dict.fromkeys(found):
            self._count(name, place)

    def _note(self, tag: Tag, place: Place) -> None:
        if isinstance(tag, float):
            self.fraction, self.typed = self.fraction or place, self.typed or place
        elif isinstance(tag, str) and not is_number(tag):
            self.word = self.word or place
        elif isinstance(tag, str) and self.fraction is None and not _is_whole(tag):
            self.fraction = place

    def _count(self, name: str, place: Place) -> None:
        if name in self.names:
            self.names[name] += 1
        elif self.known is None and len(self.names) >= MOST_LABELS:
            self.overflow = self.overflow or place
        else:
            self.names[name] = 1
            self.places[name] = place

    def result(self) -> SequenceLabels:
        if not self.examples:
            raise self.first_fault or DataError("the training files hold no record. Look at data.train.")
        problem = self._problem()
        if problem == "regression":
            names = tuple(f"LABEL_{i}" for i in range(self.width))
            return SequenceLabels(names, problem, examples=self.examples)
        fixed = self.known is not None
        if not fixed:
            self._refuse_too_many(problem)
            self._refuse_decimal_commas()
            self._refuse_lookalikes()
        ordered = self.known.names if self.known is not None else in_order(list(self.names))
        if not ordered:
            raise DataError("no record of the training files has any label. Name them with task.labels.")
        if problem == "single_label" and self.given is None and len(self.names) < 2:
            raise DataError(
                f"all {self.examples:,} records have the label {next(iter(self.names))!r}: there is nothing to learn."
                " Name all labels with task.labels, or another column with data.label_key."
            )
        counts = tuple(self.names.get(name, 0) for name in ordered)
        return SequenceLabels(ordered, problem, counts, self.examples, ids_allowed=fixed)

    def _problem(self) -> str:
        if self.problem != "auto":
            return self.problem
        if self.known is None and (self.typed or (self.fraction and not self.word)):
            if self.word:
                raise DataError(
                    f"{_at(self.typed)}: the label is a number with a fraction, and {_at(self.word)} has a name."
                    " Write names or numbers alone, or set task.problem."
                )
            return "regression"
        return "multi_label" if self.listed else "single_label"

    def _refuse_too_many(self, problem: str) -> None:
        found, place = f"more than {MOST_LABELS:,} different labels", self.overflow
        if place is None and problem == "single_label" and len(self.names) == self.examples >= FEW_RECORDS:
            found, place = "no label occurs twice", next(iter(self.places.values()))
        if place is not None:
            raise DataError(
                f"{_at(place)}: {found}: {shown(list(self.names)[:3])} and so on. Is data.label_key the right"
                " column? Set task.problem=regression to predict numbers, or name all labels with task.labels."
            )

    def _refuse_decimal_commas(self) -> None:
        commas = [name for name in self.names if _DECIMAL_COMMA.fullmatch(name)]
        if (
            self.problem == "auto"
            and commas
            and all(name in commas or is_number(name) for name in self.names)
        ):
            raise DataError(
                f"{_at(self.places[commas[0]])}: the label {commas[0]!r} looks like a number with a decimal comma."
                " Write a point, or set task.problem=single_label to take it as a name."
            )

    def _refuse_lookalikes(self) -> None:
        first: dict[Hashable, str] = {}
        for name in self.names:
            other = first.setdefault(looks(name), name)
            if other != name:
                raise DataError(
                    f"{_at(self.places[name])}: the label {name!r} looks like {other!r} of {_at(self.places[other])}"
                    " and would be another class. Write both alike, or name all labels with task.labels."
                )


def _is_whole(number: str) -> bool:
    value = Decimal(number)
    return value == value.to_integral_value()


def _at(place: Place | None) -> str:
    return "" if place is None else f"{place[0]}:{place[1]}"
