"""What a value must satisfy beyond its type. Written in a field's annotation, checked in `convert.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from glm_train.adapters.settings import MOST_ALPHA, MOST_RANK
from glm_train.data.source_names import MAX_WEIGHT, is_usable, split_weight


@dataclass(frozen=True)
class Limit:
    """A bound on a value: `wanted` completes the sentence "must be ..."."""

    wanted: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Refusal:
    """Values that other tools take and this one does not, each with the reason and the cure."""

    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Home:
    """Marks a path, where a leading `~` means the home directory: the shell leaves `key=~/x` as it is."""


def _is_nameable(path: str) -> bool:
    """Whether the operating system can be asked for this path at all, present or not."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _weighs_something(name: str) -> bool:
    weight = split_weight(name)[1]
    return weight is None or is_usable(weight)


def _weighs_nothing(name: str) -> bool:
    return split_weight(name)[1] is None


MOST = 2**31 - 1  # of anything that is counted
_AtMost = Limit(f"at most {MOST}", lambda value: value <= MOST)
AtLeastOne = Annotated[int, Limit("at least 1", lambda value: value >= 1), _AtMost]
NotNegative = Annotated[int, Limit("0 or more", lambda value: value >= 0), _AtMost]
# Processes of one machine: each number more starts one.
Processes = Annotated[int, Limit("from 0 to 1024", lambda value: 0 <= value <= 1024)]
Rank = Annotated[int, Limit(f"from 1 to {MOST_RANK}", lambda value: 1 <= value <= MOST_RANK)]
Seed = Annotated[int, Limit("from 0 to 4294967295", lambda value: 0 <= value < 2**32)]

Positive = Annotated[float, Limit("above 0", lambda value: value > 0)]
Alpha = Annotated[float, Limit(f"above 0 and at most {MOST_ALPHA}", lambda value: 0 < value <= MOST_ALPHA)]
NotNegativeReal = Annotated[float, Limit("0 or more", lambda value: value >= 0)]
Ratio = Annotated[float, Limit("from 0 to 1", lambda value: 0 <= value <= 1)]
Share = Annotated[float, Limit("above 0 and below 1", lambda value: 0 < value < 1)]
Beta = Annotated[float, Limit("from 0 up to, not including, 1", lambda value: 0 <= value < 1)]

Text = Annotated[str, Limit("something, not an empty text", lambda value: value.strip() != "")]
FilePath = Annotated[
    str,
    Home(),
    Limit("a path, not an empty text", lambda value: value.strip() != ""),
    Limit("a path that a file can have, without NUL or other impossible characters", _is_nameable),
]
# A data file, a folder that `datasets` saved, or the id of a data set on the hub: see `data/sources.py`.
TrainSource = Annotated[
    FilePath,
    Limit(f"a name with a weight above 0 and at most {MAX_WEIGHT:g} after its colon", _weighs_something),
]
ValidationSource = Annotated[
    FilePath, Limit("a name without a weight: weights are read in data.train alone", _weighs_nothing)
]
TrainSources = Annotated[tuple[TrainSource, ...], Limit("at least one file", lambda value: len(value) >= 1)]
ValidationSources = Annotated[
    tuple[ValidationSource, ...], Limit("at least one file", lambda value: len(value) >= 1)
]
