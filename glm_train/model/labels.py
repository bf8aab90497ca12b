"""The labels of a classification head, as transformers keeps them: `id2label`, its inverse, and their number."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

DEFAULT_LABELS = {0: "LABEL_0", 1: "LABEL_1"}  # a config that says nothing has these two
MOST_LABELS = 1_000_000  # a file with a larger number is a mistake, and the names alone would fill the memory


def numbered(count: int) -> dict[int, str]:
    """Names for labels that have none: `{0: "LABEL_0", ...}`."""
    return {index: f"LABEL_{index}" for index in range(count)}


def read_labels(num_labels: Any, id2label: Any, label2id: Any) -> tuple[dict[int, str], list[str]]:
    """The names of labels 0, 1, ... in order, and what is wrong with the three values, one line each.

    Each may be None. JSON turns the keys of `id2label` into strings; `{"0": "no", "1": "yes"}` is read too.
    Where `id2label` has names, a `label2id` of LABEL_0, LABEL_1, ... says nothing: transformers makes those up, and
    leaves them in the file where somebody sets `id2label` alone.
    """
    faults: list[str] = []
    labels = inverse = None
    if id2label is not None:
        pairs = id2label.items() if isinstance(id2label, dict) else ()
        labels = _in_order("id2label", id2label, pairs, faults)
    if label2id is not None:
        pairs = label2id.items() if isinstance(label2id, dict) else ()
        inverse = _in_order("label2id", label2id, ((index, name) for name, index in pairs), faults)
    if labels and inverse and inverse != labels and inverse != numbered(len(labels)):
        ids, others = ({name: index for index, name in one.items()} for one in (labels, inverse))
        first = next(name for name in [*ids, *others] if ids.get(name) != others.get(name))
        faults.append(f"label2id: does not match id2label, first at {first!r}; give one of the two")
    known = labels if labels is not None else inverse
    if num_labels is None:
        return (known if known is not None else dict(DEFAULT_LABELS)), faults
    if type(num_labels) is not int or not 1 <= num_labels <= MOST_LABELS:
        faults.append(f"num_labels: expected a whole number from 1 to {MOST_LABELS}, found {num_labels!r}")
        return known or {}, faults
    if known and len(known) != num_labels:
        faults.append(f"num_labels: {num_labels}, but {len(known)} labels have names; give one of the two")
    return (known if known is not None else numbered(num_labels)), faults


def _in_order(
    key: str, given: Any, pairs: Iterable[tuple[Any, Any]], faults: list[str]
) -> dict[int, str] | None:
    """`pairs` of index and name as a dict in the order of the indices; a fault and None where they make none."""
    items = [(_index(index), name) for index, name in pairs]
    indices, names = {index for index, _ in items}, [name for _, name in items]
    missing = next((n for n in range(len(items)) if n not in indices), None)
    strange = [name for name in names if not isinstance(name, str)]
    if not items:
        faults.append(f"{key}: expected an object with a name for each label, found {given!r}")
    elif strange:
        faults.append(f"{key}: expected names as labels, found {strange[0]!r}")
    elif missing is not None:
        last = len(items) - 1
        faults.append(f"{key}: expected each number from 0 to {last} once; there is no {missing}")
    elif len(set(names)) < len(names):
        twice = sorted(names)
        name = next(one for one, other in itertools.pairwise(twice) if one == other)
        faults.append(f"{key}: the label {name!r} stands there twice")
    else:
        return dict(sorted(items))  # type: ignore[arg-type]
    return None


def _index(value: Any) -> int | None:
    """The number that a key of `id2label` or a value of `label2id` stands for; None where it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if type(value) is int else None
