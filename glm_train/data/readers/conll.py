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

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glm_train.data.readers import record
from glm_train.data.readers.conll_columns import decode_line, find_columns, no_token, too_long
from glm_train.data.readers.json_lines import text_lines
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError


def read_conll(
    path: Path, *, token_column: int = 0, tag_column: int = -1, separator: str = "auto", tags: bool = True
) -> Iterator[Item]:
    """The sentences of a file in columns, in constant memory.

    Args:
        path: UTF-8 text; a byte order mark and CRLF endings are accepted.
        token_column, tag_column: counted from 0, or from the last one, -1.
        separator: a name in `conll_columns.SEPARATORS`; "auto" takes tabs where the first line of a token has one,
            then blanks, then commas or semicolons where a tag follows. "space" is any run of blanks and tabs.
        tags: False where the file has no tags, or they are not to be read.

    A faulty line is a fault in the place of its sentence. `#` begins a comment where a blank follows and the line
    has not the columns of a token with its tag; between `#` and a tab nothing is a comment.

    Raises:
        ConfigError: an unknown separator.
        DataError: the file has no such column, or no token; nothing of it can be read.
    """
    layout = find_columns(path, token_column, tag_column, separator, tags)
    document, begun, anything = 1, False, False  # the second: whether this document has a sentence
    sentence = _Open()
    with path.open("rb") as file:
        for line, _, raw in text_lines(file):
            try:
                found = layout.read(decode_line(raw), sentence.inside)
            except DataError as error:
                sentence.fail(Fault(str(path), line, error))
                continue
            if found is None:
                continue
            if isinstance(found, tuple):
                sentence.add(line, *found, size=len(raw or b""))
                if sentence.size > record.MAX_RECORD_BYTES:
                    sentence.fail(Fault(str(path), sentence.line, too_long()))
                continue
            if sentence.inside:
                yield sentence.take(path, document)
                begun = anything = True
            if found == "document" and begun:
                document, begun = document + 1, False
    if sentence.inside:
        yield sentence.take(path, document)
    elif not anything:
        raise no_token(path)


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
