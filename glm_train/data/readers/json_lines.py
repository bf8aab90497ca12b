"""JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from glm_train.data.readers import record
from glm_train.data.readers.json_text import decode_utf8, describe, parse_json
from glm_train.data.readers.record import Fault, Item, read_value
from glm_train.errors import DataError

BOM = b"\xef\xbb\xbf"
_DRAIN_BYTES = 1 << 20


def read_json_lines(path: Path) -> Iterator[Item]:
    """One JSON object a line. Blank lines are skipped; a byte order mark and CRLF endings are accepted.

    A line that is no record is a fault, and reading goes on behind it.
    """
    for item in unread_lines(path):
        yield item.read() if isinstance(item, Line) else item


@dataclass(frozen=True, slots=True)
class Line:
    """A line with something on it, for another process to read."""

    raw: bytes
    path: Path
    line: int
    offset: int

    @property
    def size(self) -> int:
        return len(self.raw)

    def read(self) -> Item:
        return read_line(self.raw, self.path, self.line, self.offset)


def unread_lines(path: Path) -> Iterator[Line | Fault]:
    """The lines of which `read_json_lines` makes records, without blank ones."""
    found = False
    with path.open("rb") as file:
        for line, offset, raw in text_lines(file):
            if raw is None:
                found = True
                yield Fault(str(path), line, _too_long())
            elif raw.strip():
                found = True
                yield Line(raw, path, line, offset)
    if not found:
        raise DataError(f"{path}: the file holds only blank lines. Write one JSON object a line.")


def text_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Lines with their numbers and the bytes before them, without a byte order mark; None for one that is longer
    than a record may be.

    The rest of an overlong line is read past, a little at a time.
    """
    line = offset = 0
    limit = record.MAX_RECORD_BYTES
    while raw := file.readline(limit + 1):
        line += 1
        begin, offset = offset, offset + len(raw)
        if len(raw) > limit:
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(_DRAIN_BYTES)
                offset += len(raw)
            yield line, begin, None
        elif line == 1 and raw.startswith(BOM):
            yield line, len(BOM), raw[len(BOM) :]
        else:
            yield line, begin, raw


def _too_long() -> DataError:
    return DataError(
        f"the line is longer than {record.MAX_RECORD_BYTES // 2**20} MiB. Put each record on a line of its own."
    )


def read_line(raw: bytes, path: Path, line: int, offset: int) -> Item:
    """The record that one line is, or its fault. `offset` is where the line begins in the file."""
    try:
        return read_value(parse_json(decode_utf8(raw.rstrip(b"\r\n"))), path, line, len(raw), offset)
    except json.JSONDecodeError as error:
        return Fault(str(path), line, _syntax_error(error, raw.strip()))
    except DataError as error:
        return Fault(str(path), line, error)


def _syntax_error(error: json.JSONDecodeError, shape: bytes) -> DataError:
    hint = ""
    if shape == b"{":
        hint = " The file looks like one JSON object over many lines."
    elif shape.startswith(b"[") and not shape.endswith(b"]"):
        hint = " The file looks like a JSON array; name it .json, and it is read as one."
    return DataError(f"the line is not JSON: {describe(error)}.{hint} Write one object a line.")
