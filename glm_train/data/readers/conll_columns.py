"""How lines of a CoNLL file are read: what separates columns, which hold token and tag, and what is a comment."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glm_train.data.readers import record
from glm_train.data.readers.json_lines import text_lines
from glm_train.data.readers.json_text import decode_utf8
from glm_train.errors import ConfigError, DataError, nearest

SEPARATORS = {"tab": "tabs", "space": "blanks", "comma": "commas", "semicolon": "semicolons"}
_MARKS = {"tab": "\t", "comma": ",", "semicolon": ";"}
_BLANK = " \t"  # nothing else is: a no-break space is a token that corpora have
_SPECIAL = _BLANK + "-#"  # how lines begin that may be no token's
_BLANKS = re.compile("[ \t]+")
_DOCUMENT = re.compile(r"-DOCSTART-(?![^\s,;])")
_PART = re.compile(r"#(begin|end) document\b")  # CoNLL-2012
_TAG = re.compile(r"O|[BIESLUM][-_]\S+")


def decode_line(raw: bytes | None) -> str:
    if raw is None:
        raise too_long()
    text = decode_utf8(raw).removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        raise DataError("the line holds a carriage return. End lines with a line feed, as Unix does.")
    return text


def too_long() -> DataError:
    size = record.MAX_RECORD_BYTES // 2**20
    return DataError(f"the sentence is longer than {size} MiB. Put blank lines between sentences.")


@dataclass(frozen=True)
class Columns:
    """How the lines of one file are read: `columns` in each, as line `line` has them."""

    split: Callable[[str], list[str]]
    separator: str
    columns: int
    line: int
    token: int
    tag: int | None
    hint: int | None  # the column that tells words from comments: of the tags, read or not

    def read(self, text: str, inside: bool) -> tuple[str, str | None] | str | None:
        """A token with its tag; "document" or "blank" for what ends a sentence; None for a comment."""
        if text[:1] in _SPECIAL:  # also where it is empty
            if not text.strip(_BLANK):
                return "blank"
            if _is_document(text):
                return "document"
        fields = self.split(text)
        if text.startswith("#") and self._is_comment(text, fields, inside):
            return None
        if len(fields) != self.columns:
            raise self._wrong_columns(text, fields)
        token, tag = fields[self.token], None if self.tag is None else fields[self.tag]
        if not token:
            raise DataError(f"column {self.token} has no token. Write one, or remove the line.")
        if tag is not None and not tag.strip(_BLANK):
            raise DataError(f"the token {token!r} has no tag. Write O where it is in no entity.")
        # A token may be a blank, and is otherwise without the blanks that columns are filled with.
        return token.strip(_BLANK) or token, tag if tag is None else tag.strip(_BLANK)

    def _is_comment(self, text: str, fields: list[str], inside: bool) -> bool:
        """Of a line that begins with `#`. In doubt it is a token, whose fault is then said: nothing is lost."""
        if self.separator == "tab" and "\t" in text and not text.startswith("# "):
            return False
        if len(fields) == self.columns:
            if self.hint is None or inside or _TAG.fullmatch(fields[self.hint].strip()):
                return False
        elif inside and self.hint is not None and len(fields) > 1 and _TAG.fullmatch(fields[-1]):
            return False
        return bool(re.match(r"#\s+\S|#[\w.:]+\s*=", text))

    def _wrong_columns(self, text: str, fields: list[str]) -> DataError:
        have = f"{len(fields)} {'columns' if len(fields) > 1 else 'column'}"
        what = f"the line {text[:60]!r} has {have}, and line {self.line} has {self.columns}"
        if text.startswith("#"):
            return DataError(f"{what}. Write its columns, or a blank behind the # of a comment.")
        if len(fields) < self.columns and self.tag is not None:
            what += ": a tag or another column is missing"
        names = SEPARATORS[self.separator]
        return DataError(
            f"{what}. Columns are separated by {names} here; set data.separator if that is wrong."
        )


def _is_document(text: str) -> bool:
    return _DOCUMENT.match(text.lstrip(_BLANK)) is not None or _PART.match(text) is not None


def find_columns(path: Path, token_column: int, tag_column: int, separator: str, tags: bool) -> Columns:
    if separator != "auto" and separator not in SEPARATORS:
        known = ("auto", *SEPARATORS)
        raise ConfigError(
            f"data.separator={separator!r} is unknown. Use one of: {', '.join(known)}.{nearest(separator, known)}"
        )
    line, text = _first_token_line(path)
    name = _guess(text) if separator == "auto" else separator
    split = _splitter(name)
    fields = split(text)
    columns = len(fields)
    places = []
    for key, column in (("token_column", token_column), ("tag_column", tag_column))[: 1 + tags]:
        if not -columns <= column < columns:
            raise DataError(
                f"{path}:{line}: data.{key}={column}, and the line {text[:60]!r} has {columns} columns between"
                f" {SEPARATORS[name]}. Set data.{key} or data.separator as the file is."
            )
        places.append(column % columns)
    if len(places) == 2 and places[0] == places[1]:
        raise DataError(
            f"{path}:{line}: the token and the tag of {text[:60]!r} would be the same column, {places[0]}, of"
            f" {columns} between {SEPARATORS[name]}. Set data.token_column, data.tag_column or data.separator."
        )
    hint = places[1] if tags else _unread_tags(fields, tag_column, places[0])
    return Columns(split, name, columns, line, places[0], hint if tags else None, hint)


def _unread_tags(fields: list[str], column: int, token: int) -> int | None:
    """The column of the tags where nobody asks for them, if there are any."""
    there = -len(fields) <= column < len(fields) and column % len(fields) != token
    return column % len(fields) if there and _TAG.fullmatch(fields[column].strip(_BLANK)) else None


def _first_token_line(path: Path) -> tuple[int, str]:
    """The first line that is no boundary and does not begin with `#`; if there is none, the first that does."""
    marked: tuple[int, str] | None = None
    fault: DataError | None = None
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            try:
                text = decode_line(raw)
            except DataError as error:
                fault = fault or error.at(path, line)
                continue
            if not text.strip(_BLANK) or _is_document(text):
                continue
            if not text.startswith("#"):
                return line, text
            marked = marked or (line, text)
    if marked is None:
        raise fault or no_token(path)
    return marked


def no_token(path: Path) -> DataError:
    return DataError(f"{path}: the file has no line with a token. Write a token and its tag a line.")


def _guess(text: str) -> str:
    if "\t" in text:
        return "tab"
    if " " in text.strip(" "):
        return "space"
    for name in ("comma", "semicolon"):
        fields = text.split(_MARKS[name])
        if len(fields) > 1 and any(map(_TAG.fullmatch, fields[1:])):
            return name
    return "space"


def _splitter(separator: str) -> Callable[[str], list[str]]:
    if separator == "space":
        return lambda text: _BLANKS.split(text.strip(_BLANK))
    mark = _MARKS[separator]
    if separator == "tab":
        return lambda text: text.split(mark)
    return lambda text: _split_quoted(text, mark)


def _split_quoted(text: str, mark: str) -> list[str]:
    """Fields of which some may be quoted, as in CSV: `",",O` is a comma and its tag."""
    if '"' not in text:
        return text.split(mark)
    try:
        return next(csv.reader([text], delimiter=mark, strict=True))
    except csv.Error as error:
        raise DataError(
            f'the quotes of {text[:60]!r} are wrong: {error}. Write a double quote as """".'
        ) from None
