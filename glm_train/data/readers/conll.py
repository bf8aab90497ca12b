"""CoNLL: a token and its tag a line, in columns; blank lines between sentences.

    -DOCSTART- -X- O O          a document begins; its other columns mean nothing, and may be missing
                                one blank line or several
    # sent_id = 3               a comment
    EU NNP B-NP B-ORG           token_column=0, tag_column=-1
    rejects VBZ B-VP O
    # NN B-NP O                 no comment: it has the columns of a token, and a tag

Each sentence is one record, `{"tokens": [...], "tags": [...], "document": n}`, on the line of its first token. The
first line that is a token's for sure decides how the columns are separated and how many there are; a line that has
another number of them is a fault, because what is in its columns is anybody's guess.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_train.data.readers import record
from glm_train.data.readers.json_lines import text_lines
from glm_train.data.readers.json_text import decode_utf8
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import ConfigError, DataError, nearest

SEPARATORS = {"tab": "tabs", "space": "blanks", "comma": "commas", "semicolon": "semicolons"}
_MARKS = {"tab": "\t", "comma": ",", "semicolon": ";"}
_BLANK = " \t"  # nothing else is: a no-break space is a token that corpora have
_SPECIAL = _BLANK + "-#"  # how lines begin that may be no token's
_BLANKS = re.compile("[ \t]+")
_DOCUMENT = re.compile(r"-DOCSTART-(?![^\s,;])")
_PART = re.compile(r"#(begin|end) document\b")  # CoNLL-2012
_TAG = re.compile(r"O|[BIESLUM][-_]\S+")


def read_conll(
    path: Path, *, token_column: int = 0, tag_column: int = -1, separator: str = "auto", tags: bool = True
) -> Iterator[Item]:
    """The sentences of a file in columns, in constant memory.

    Args:
        path: UTF-8 text; a byte order mark and CRLF endings are accepted.
        token_column, tag_column: counted from 0, or from the last one, -1.
        separator: a name in `SEPARATORS`; "auto" takes tabs where the first line of a token has one, then blanks,
            then commas or semicolons where a tag follows. "space" is any run of blanks and tabs.
        tags: False where the file has no tags, or they are not to be read.

    A faulty line is a fault in the place of its sentence. `#` begins a comment where a blank follows and the line
    has not the columns of a token with its tag; between `#` and a tab nothing is a comment.

    Raises:
        ConfigError: an unknown separator.
        DataError: the file has no such column, or no token; nothing of it can be read.
    """
    layout = _find_layout(path, token_column, tag_column if tags else None, separator)
    document, begun, anything = 1, False, False  # the second: whether this document has a sentence
    sentence = _Open()
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            try:
                found = layout.read(_decode(raw), sentence.inside)
            except DataError as error:
                sentence.fail(Fault(str(path), line, error))
                continue
            if found is None:
                continue
            if isinstance(found, tuple):
                sentence.add(line, *found, size=len(raw or b""))
                if sentence.size > record.MAX_RECORD_BYTES:
                    sentence.fail(Fault(str(path), sentence.line, _too_long()))
                continue
            if sentence.inside:
                yield sentence.take(path, document)
                begun = anything = True
            if found == "document" and begun:
                document, begun = document + 1, False
    if sentence.inside:
        yield sentence.take(path, document)
    elif not anything:
        raise _no_token(path)


def _decode(raw: bytes | None) -> str:
    if raw is None:
        raise _too_long()
    text = decode_utf8(raw).removesuffix("\n").removesuffix("\r")
    if "\r" in text:
        raise DataError("the line holds a carriage return. End lines with a line feed, as Unix does.")
    return text


def _too_long() -> DataError:
    size = record.MAX_RECORD_BYTES // 2**20
    return DataError(f"the sentence is longer than {size} MiB. Put blank lines between sentences.")


class Sentence(dict[str, Any]):
    """A record of a CoNLL file. `lines`: how far below its line each token is, where comments stand between them."""

    lines: list[int] | None = None

    def line_of(self, word: int) -> int:
        """How many lines below the record's the line of a word is."""
        return word if self.lines is None else self.lines[word]


class _Open:
    """The tokens of a sentence so far, or the first fault in it."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.tokens: list[str] = []
        self.tags: list[str] = []
        self.lines: list[int] = []  # counted from the first one's
        self.fault: Fault | None = None
        self.line = self.size = 0

    @property
    def inside(self) -> bool:
        return bool(self.tokens) or self.fault is not None

    def add(self, line: int, token: str, tag: str | None, *, size: int) -> None:
        if self.fault is None:
            self.line = self.line or line
            self.size += size
            self.tokens.append(token)
            self.lines.append(line - self.line)
            if tag is not None:
                self.tags.append(tag)

    def fail(self, fault: Fault) -> None:
        self.fault = self.fault or fault
        self.tokens, self.tags = [], []

    def take(self, path: Path, document: int) -> Item:
        """What stands for the sentence; the next one begins."""
        item: Item | None = self.fault
        if item is None:
            value = Sentence(tokens=self.tokens)
            if self.tags:
                value["tags"] = self.tags
            value["document"] = document
            if self.lines[-1] >= len(self.lines):
                value.lines = self.lines
            item = Record(value, str(path), self.line, self.size)
        self._clear()
        return item


@dataclass(frozen=True)
class _Layout:
    """How the lines of one file are read: `columns` in each, as line `line` has them."""

    split: Callable[[str], list[str]]
    separator: str
    columns: int
    line: int
    token: int
    tag: int | None

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
            if self.tag is None or inside or _TAG.fullmatch(fields[self.tag].strip()):
                return False
        elif inside and self.tag is not None and len(fields) > 1 and _TAG.fullmatch(fields[-1]):
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


def _find_layout(path: Path, token_column: int, tag_column: int | None, separator: str) -> _Layout:
    if separator != "auto" and separator not in SEPARATORS:
        known = ("auto", *SEPARATORS)
        raise ConfigError(
            f"data.separator={separator!r} is unknown. Use one of: {', '.join(known)}.{nearest(separator, known)}"
        )
    line, text = _first_token_line(path)
    name = _guess(text, tag_column) if separator == "auto" else separator
    split = _splitter(name)
    columns = len(split(text))
    asked = [("token_column", token_column)] + (
        [("tag_column", tag_column)] if tag_column is not None else []
    )
    places = []
    for key, column in asked:
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
    return _Layout(split, name, columns, line, places[0], places[1] if len(places) == 2 else None)


def _first_token_line(path: Path) -> tuple[int, str]:
    """The first line that is no boundary and does not begin with `#`; if there is none, the first that does."""
    marked: tuple[int, str] | None = None
    fault: DataError | None = None
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            try:
                text = _decode(raw)
            except DataError as error:
                fault = fault or error.at(path, line)
                continue
            if not text.strip(_BLANK) or _is_document(text):
                continue
            if not text.startswith("#"):
                return line, text
            marked = marked or (line, text)
    if marked is None:
        raise fault or _no_token(path)
    return marked


def _no_token(path: Path) -> DataError:
    return DataError(f"{path}: the file has no line with a token. Write a token and its tag a line.")


def _guess(text: str, tag_column: int | None) -> str:
    if "\t" in text:
        return "tab"
    if " " in text.strip(" "):
        return "space"
    for name in ("comma", "semicolon"):
        fields = text.split(_MARKS[name])
        if tag_column is not None and len(fields) > 1 and any(map(_TAG.fullmatch, fields[1:])):
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
