"""Files for tests of reading, what is said where they are refused, and how much memory reading them takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from glm_train.data.records import read_records
from glm_train.errors import DataError


def write(folder: Path, content: str | bytes, name: str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal_by(read: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message of the `DataError` with which a call ends."""
    with pytest.raises(DataError) as caught:
        read(*arguments, **options)
    return str(caught.value)


def refusal(path: Path) -> str:
    """What is said of the first fault of a data file."""
    return refusal_by(lambda: list(read_records(path)))


def count_and_peak(items: Iterable[Any]) -> tuple[int, int]:
    """How many there are, and the most bytes that Python held to give them one by one."""
    tracemalloc.start()
    count = sum(1 for _ in items)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return count, peak
