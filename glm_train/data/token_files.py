"""Files of token classification: CoNLL in any columns, and everything else by its suffix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glm_train.data.readers.conll import read_conll
from glm_train.data.readers.record import Item
from glm_train.data.records import check_file, format_of, read_items
from glm_train.errors import DataError


@dataclass(frozen=True)
class TokenReader:
    """Reads the records of a file: CoNLL as the columns say, anything else by its suffix. Picklable."""

    format: str = "auto"
    token_column: int = 0
    tag_column: int = -1
    separator: str = "auto"
    tags: bool = True

    def __call__(self, path: Path) -> Iterator[Item]:
        if not self.is_conll(path):
            return read_items(path)
        columns = {key: value for key, value in asdict(self).items() if key != "format"}
        return read_items(path, partial(read_conll, **columns))

    def is_conll(self, path: Path) -> bool:
        return self.format == "conll" or format_of(path) == "conll"

    def check(self, path: Path, *, streaming: bool = False) -> None:
        """Refuse what cannot be opened as a file of its format. Reads its first bytes only."""
        check_file(path, any_suffix=self.format == "conll")
        if streaming and self.is_conll(path):
            raise DataError(
                f"{path}: data.streaming reads single lines, and a sentence of columns has many. Leave data.streaming"
                " out, or write the file as JSON Lines with `tokens` and `tags`."
            )

    def settings(self) -> dict[str, Any]:
        return asdict(self)
