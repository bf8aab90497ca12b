"""What every reader yields: a record, or the fault that stands in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_train.errors import DataError

MAX_RECORD_BYTES = (
    64 * 1024 * 1024
)  # of one record as text; a longer one is a fault, and is never held in memory


@dataclass(frozen=True, slots=True)
class Record:
    """One record and where it stands: `value` as read, `line` counted from 1.

    `line` is the line on which the record begins; in Parquet and Arrow files, which have no lines, its row.
    """

    value: dict[str, Any]
    path: str
    line: int
    size: int = 0  # bytes of its text, about: how much memory a run of records takes
    offset: int = 0  # of a line of JSON Lines, where its `size` bytes begin in the file


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be read, where the reader can go on behind it. `error` has no place yet."""

    path: str
    line: int
    error: DataError

    def placed(self) -> DataError:
        """The error with its `path:line:` in front."""
        return self.error.at(self.path, self.line)


Item = Record | Fault


def read_value(value: Any, path: Path, line: int, size: int, offset: int = 0) -> Item:
    """The record of a JSON value, or the fault that it is no object."""
    if isinstance(value, dict):
        return Record(value, str(path), line, size, offset)
    message = f"the record is a JSON {_kind(value)}, not an object. Write one {{...}} for each record."
    return Fault(str(path), line, DataError(message))


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")
