"""A JSON array of objects, read element by element.

The bytes are scanned for the commas between elements, with the depth of brackets and the quotes of strings
in mind; only then is an element parsed, so that no more than one of them is in memory:

    [ {"a": [1, 2]} , {"a": "]"} ]
      element 1       element 2        the `]` and `,` inside an element end nothing
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from glm_train.data.readers import record
from glm_train.data.readers.json_lines import BOM, read_json_lines
from glm_train.data.readers.json_text import decode_utf8, describe, parse_json
from glm_train.data.readers.record import Fault, Item, read_value
from glm_train.errors import DataError

_CHUNK_BYTES = 1 << 18
# Each pattern takes all it can in one call: strings are long and full of escapes, and what stands between
# brackets does not matter, but for the commas between elements.
_INSIDE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_STRING = b'"' + _INSIDE.pattern + b'"'
_BETWEEN_ELEMENTS = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_IN_AN_ELEMENT = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)


def read_json(path: Path) -> Iterator[Item]:
    """A `.json` file: an array where its first character is `[`, else JSON Lines."""
    with path.open("rb") as file:
        start = file.read(_CHUNK_BYTES).removeprefix(BOM).lstrip()
    return read_json_array(path) if start.startswith(b"[") else read_json_lines(path)


def read_json_array(path: Path) -> Iterator[Item]:
    """The objects of a JSON array. A record's line is the one on which it begins.

    Raises:
        DataError: the array itself is not JSON. Where a bracket, a quote or a comma is wrong, nobody can say
            where the next record begins, so this ends the file and is never skipped.
    """
    with path.open("rb") as file:
        for line, raw in _elements(file, path):
            try:
                yield read_value(parse_json(decode_utf8(raw)), path, line, len(raw))
            except json.JSONDecodeError as error:
                raise _syntax_error(path, line + error.lineno - 1, describe(error)) from None
            except DataError as error:
                yield Fault(str(path), line, error)


def _elements(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Each element's first line and its bytes, without the white space around it."""
    start = file.read(_CHUNK_BYTES)
    head = start.index(b"[") + 1
    file.seek(head)
    line = 1 + start.count(b"\n", 0, head)
    for commas, (raw, end) in enumerate(_pieces(file, path, line)):
        inner = raw.lstrip()
        line += raw.count(b"\n") - inner.count(b"\n")
        if inner:
            yield line, inner.rstrip()
        elif commas or end == b",":
            raise _syntax_error(path, line, "a comma without a record on both sides of it")
        else:
            raise DataError(f"{path}: the array is empty. Write at least one record.")
        line += inner.count(b"\n")
    for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
        if rest := chunk.strip():
            what = f"text after the end of the array, {rest[:20].decode(errors='replace')!r}"
            raise _syntax_error(path, line, what)


def _pieces(file: BinaryIO, path: Path, line: int) -> Iterator[tuple[bytes, bytes]]:
    """What stands between the commas of the array, each with the comma or bracket behind it.

    Leaves the file behind the bracket that closes the array.
    """
    scanner, piece = _Scanner(), bytearray()
    for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""):
        begin = 0
        for end in scanner.ends(chunk):
            piece += chunk[begin:end]
            begin = end + 1
            yield bytes(piece), chunk[end:begin]
            line += piece.count(b"\n")
            piece.clear()
        if scanner.closed:
            file.seek(begin - len(chunk), 1)
            return
        piece += chunk[begin:]
        if len(piece) > record.MAX_RECORD_BYTES:
            size = record.MAX_RECORD_BYTES // 2**20
            line += piece.count(b"\n", 0, len(piece) - len(piece.lstrip()))
            raise _syntax_error(path, line, f"a record that does not end within {size} MiB")
    raise _syntax_error(path, line + piece.count(b"\n"), "the file ends before the array does")


class _Scanner:
    """Finds where elements end, a chunk at a time."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False

    @property
    def closed(self) -> bool:
        return self._depth < 0

    def ends(self, chunk: bytes) -> Iterator[int]:
        """The positions of the commas between elements, and of the bracket that closes the array."""
        position, self._escaped = int(self._escaped), False
        while position < len(chunk):
            if self._quoted:
                position = self._end(_INSIDE, chunk, position)
                self._escaped = chunk[position : position + 1] == b"\\"  # of a letter in the next chunk
                self._quoted = chunk[position : position + 1] != b'"'
            else:
                position = self._end(_IN_AN_ELEMENT if self._depth else _BETWEEN_ELEMENTS, chunk, position)
                mark = chunk[position : position + 1]
                self._quoted = mark == b'"'  # it is not closed in this chunk
                self._depth += (mark in (b"[", b"{")) - (mark in (b"]", b"}"))
                if mark == b"," or self.closed:
                    yield position
                if self.closed:
                    return
            position += 1

    @staticmethod
    def _end(pattern: re.Pattern[bytes], chunk: bytes, position: int) -> int:
        match = pattern.match(chunk, position)
        return match.end() if match else position


def _syntax_error(path: Path, line: int, what: str) -> DataError:
    return DataError(
        f"{path}:{line}: the array is not JSON: {what}. Where its next record begins cannot be told, so"
        " data.on_error=skip cannot pass over this: mend the file, or write JSON Lines, one object a line."
    )
