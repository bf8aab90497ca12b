"""Data files as a stream of records. Every fault names its file and line; memory stays constant.

A file format is one function `path -> records` in `READERS`; `SUFFIXES` says which one a file name means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from glm_train.errors import DataError, nearest

MAX_LINE_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of one file, in file order.

    The file itself is checked before this returns; its lines are checked as they are read.

    Raises:
        DataError: the file cannot be read or its format is not known; and, while iterating, the first
            line that is not a record, as `path:line: what is wrong`.
    """
    path = Path(path)
    _check_readable(path)
    return READERS[_format_of(path)](path)


def read_json_lines(path: Path) -> Iterator[Record]:
    """One JSON object a line. Blank lines are skipped; a byte order mark and CRLF endings are accepted."""
    found = False
    with path.open("rb") as file:
        for line, raw in _lines(file, path):
            if not raw.strip():
                continue
            try:
                value = parse_object(raw)
            except DataError as error:
                raise error.at(path, line) from None
            found = True
            yield Record(value, str(path), line)
    if not found:
        raise DataError(f"{path}: the file holds only blank lines. Write one JSON object a line.")


def parse_object(raw: bytes) -> dict[str, Any]:
    """One JSON object from one line of bytes; a DataError without a place when it is anything else.

    Stricter than `json.loads` where a silent reading would train on something else than the file says:
    repeated keys, NaN and Infinity, halves of surrogate pairs and NUL bytes are refused.
    """
    if b"\0" in raw:
        raise DataError(
            "the line holds a NUL byte. The file is damaged, or not UTF-8 text; save it as UTF-8."
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8. Save the file as UTF-8."
        ) from None
    value = _decode(text)
    if not isinstance(value, dict):
        raise DataError(f"the line is a JSON {_kind(value)}, not an object. Write one {{...}} a line.")
    if b"\\u" in raw:
        _refuse_lone_surrogates(value)
    return value


def _decode(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        shape = text.strip()
        hint = ""
        if shape in ("[", "{") or (shape.startswith("[") and not shape.endswith("]")):
            hint = " The file looks like one JSON value over many lines."
        raise DataError(
            f"the line is not JSON: {error.msg} at column {error.colno}.{hint} Write one object a line."
        ) from None
    except RecursionError:
        raise DataError("the JSON is nested too deeply to read. Flatten the record.") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise DataError(f"the line is not usable JSON: {error}.") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {repeated!r} occurs twice in one object. Keep one of the two.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is not JSON. Write a number, a string or null.")


def _refuse_lone_surrogates(value: dict[str, Any]) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise DataError(
            f"the escape \\u{code:04x} is half of a surrogate pair and stands for no character."
            " Remove it, or write the whole pair."
        ) from None


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    line = 0
    while raw := file.readline(MAX_LINE_BYTES + 1):
        line += 1
        if len(raw) > MAX_LINE_BYTES:
            raise DataError(
                f"{path}:{line}: the line is longer than {MAX_LINE_BYTES // 2**20} MiB."
                " Put each record on a line of its own."
            )
        yield line, raw.removeprefix(_BOM) if line == 1 else raw


def _check_readable(path: Path) -> None:
    """Refuse what cannot be opened as a non-empty file, with the cure."""
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)[:3]
            hint = f", for example {str(path / inside[0])!r}" if inside else ""
            raise DataError(f"{path}: this is a folder. Name the data file{hint}.")
        if not path.exists():
            raise DataError(f"{path}: no such file.{_nearest_file(path)}")
        if not path.is_file():
            raise DataError(f"{path}: this is not a regular file. Name a data file.")
        with path.open("rb") as file:
            start = file.read(len(_BOM) + 1)
    except PermissionError:
        raise DataError(f"{path}: no permission to read it. Check the owner and mode of the file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    if start in (b"", _BOM):
        raise DataError(f"{path}: the file is empty. Write one record a line.")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {str(path.parent)!r} does not exist either."
    return nearest(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_file()))


def _format_of(path: Path) -> str:
    if (suffix := path.suffix.lower()) in SUFFIXES:
        return SUFFIXES[suffix]
    shown = f"files that end in {suffix!r}" if suffix else "files without a suffix"
    raise DataError(
        f"{path}: {shown} are not read. Use one of: {', '.join(sorted(SUFFIXES))} (one JSON object a line)."
    )


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
    return names.get(type(value), "null")


@dataclass(frozen=True, slots=True)
class Record:
    """One record and where it stands: `value` as read, `line` counted from 1."""

    value: dict[str, Any]
    path: str
    line: int


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {"jsonl": read_json_lines}
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl"}
