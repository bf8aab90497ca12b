"""CSV and TSV: a header line with the names of the columns, then one record a row; every value is text.

A quoted value may hold line breaks, so a row has as many lines as it needs. Its line is its first.

A `.csv` is separated by commas. Where its header has no comma, and semicolons or tabs but not both, it is separated by
these, as spreadsheets write it where the comma is the decimal sign. Nothing else is guessed.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from glm_train.data.readers import record
from glm_train.data.readers.json_lines import text_lines
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SEP_LINE = re.compile(r'"?sep=.?"?\s*', re.IGNORECASE)


def _read(path: Path, *, delimiter: str) -> Iterator[Item]:
    """The rows of a file with a header, as records.

    A row with too many or too few values is a fault.

    Raises:
        DataError: the header names no columns, or a quote is wrong: nobody can say where the next row begins.
    """
    csv.field_size_limit(max(csv.field_size_limit(), record.MAX_RECORD_BYTES))
    if delimiter == ",":
        delimiter = _separator(path)
    rows = _rows(path, delimiter)
    line, first, _ = next(rows, (1, [], ""))
    header = [name.strip() for name in first]
    _check_header(path, line, header, delimiter)
    beside_a_blank = re.compile(f'(?:^|{delimiter}) +"(?!"[^{delimiter}\r\n])')
    found = False
    for line, row, raw in rows:
        found = True
        try:
            for name, value in zip(header, row, strict=False):
                if value[:1] == " " and value.lstrip(" ")[:1] == '"' and beside_a_blank.search(raw):
                    raise _blank_before_quote(name)
            yield Record(_read_row(header, row, delimiter), str(path), line, sum(map(len, row)))
        except DataError as error:
            yield Fault(str(path), line, error)
    if not found:
        raise DataError(f"{path}: the file holds a header and no rows. Write one record a row.")


def _separator(path: Path) -> str:
    """What separates the values of a `.csv`, told by its header alone."""
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            header = (raw or b"").decode("utf-8", "replace")
            if _SEP_LINE.fullmatch(header):
                raise DataError(f"{path}:{line}: {header.strip()!r} is a note to Excel. Take this line out.")
            if header.strip():
                others = [mark for mark in ";\t" if mark in header]
                return others[0] if "," not in header and len(others) == 1 else ","
    return ","


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Each row that is not blank, with its first line and its text."""
    with path.open("rb") as file:
        # Bytes that are no UTF-8 become halves of surrogate pairs here, and a fault of their row below.
        lines = _Lines(_decode(path, line, raw) for line, _, raw in text_lines(file))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        line = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise _quote_error(path, line, str(error)) from None
            if row is None:
                return
            raw = lines.taken()
            if any(value.strip() for value in row):
                yield line, row, raw
            line = reader.line_num + 1


class _Lines:
    """The lines of a file, which remembers those that were taken since it was asked last."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines, self._taken = iter(lines), [""]

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self._taken.append(line := next(self._lines))
        return line

    def taken(self) -> str:
        text, self._taken = "".join(self._taken), []
        return text


def _decode(path: Path, line: int, raw: bytes | None) -> str:
    if raw is None:
        size = record.MAX_RECORD_BYTES // 2**20
        raise _quote_error(path, line, f"the line is longer than {size} MiB")
    text = raw.decode("utf-8", "surrogateescape")
    if line == 1 and not text.endswith("\n") and "\r" in text.rstrip("\r"):
        raise DataError(
            f"{path}: its lines end with a bare carriage return. Save it with LF or CRLF line ends."
        )
    return text


def _read_row(header: list[str], row: list[str], delimiter: str) -> dict[str, str]:
    if len(row) != len(header):
        raise DataError(
            f"the row has {len(row)} values, and the header {len(header)} columns."
            f" Put a value that holds {_NAMES[delimiter]} between double quotes."
        )
    for name, value in zip(header, row, strict=True):
        if "\0" in value:
            raise DataError(f"{name!r} holds a NUL byte. The file is damaged; save it as UTF-8 text.")
        if not value.isascii() and any("\udc80" <= letter <= "\udcff" for letter in value):
            raise DataError(f"{name!r} holds bytes that are not UTF-8. Save the file as UTF-8.")
    return {name: value for name, value in zip(header, row, strict=True) if name}


def _check_header(path: Path, line: int, header: list[str], delimiter: str) -> None:
    """The first column may have no name: that is how tables with an index are written."""
    names = [*(header[:1] if header[0] else []), *header[1:]] if header else []
    if len(header) == 1 and any(mark in header[0] for mark in ",;\t|"):
        raise DataError(
            f"{path}:{line}: the header is one column, {header[0][:60]!r}. Separate the columns with"
            f" {_NAMES[delimiter]}{'' if delimiter == chr(9) else '; a file with tabs is named .tsv'}."
        )
    if not names or not all(names):
        raise DataError(f"{path}:{line}: the header has a column without a name. Name every column.")
    if any("\udc80" <= letter <= "\udcff" for name in names for letter in name):
        raise DataError(f"{path}:{line}: the header holds bytes that are not UTF-8. Save the file as UTF-8.")
    if repeated := {name for name in names if names.count(name) > 1}:
        raise DataError(f"{path}:{line}: two columns are named {min(repeated)!r}. Rename one of the two.")


def _blank_before_quote(name: str) -> DataError:
    return DataError(
        f"{name!r} has a blank before its opening quote, so the quotes would be part of it. Take the blank out:"
        " write the separator and the quote side by side."
    )


def _quote_error(path: Path, line: int, what: str) -> DataError:
    return DataError(
        f"{path}:{line}: the table cannot be read: {what}. Where its next row begins cannot be told, so"
        " data.on_error=skip cannot pass over this: close the quote, or write a double quote inside a"
        ' quoted value twice ("").'
    )


read_csv = partial(_read, delimiter=",")
read_tsv = partial(_read, delimiter="\t")
