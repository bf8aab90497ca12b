"""The weight in the name of a data file: `chats.jsonl:2`."""

from __future__ import annotations

import math
import re
from pathlib import Path

MAX_WEIGHT = 1000.0
WEIGHT_RULE = f"a weight, the number after a colon, must be above 0 and at most {MAX_WEIGHT:g}"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(nan|inf|infinity)", re.IGNORECASE)


def split_weight(name: str) -> tuple[str, float | None]:
    """The name without its weight, and the weight: `a.jsonl:2` -> `a.jsonl`, 2.0; None where none is named.

    A file that exists under the whole name has no weight in it.
    """
    head, colon, tail = name.rpartition(":")
    if not colon or not head or not _NUMBER.fullmatch(tail) or exists(name):
        return name, None
    return head, float(tail)


def is_usable(weight: float) -> bool:
    return math.isfinite(weight) and 0 < weight <= MAX_WEIGHT


def exists(name: str) -> bool:
    """Whether there is something of this name; no, where no file can have it."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False
