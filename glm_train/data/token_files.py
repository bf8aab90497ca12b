"""Files of token classification: CoNLL in any columns, and everything else by its suffix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glm_train.data.readers.conll import read_conll
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.data.records import check_file, format_of, read_items
from glm_train.data.token_records import TAG_KEYS, tag_name
from glm_train.errors import DataError


@dataclass(frozen=True)
class TokenReader:
    """Reads the records of a file: CoNLL as the columns say, anything else by its suffix. Picklable.

    Numbers that an Arrow or Parquet file of `datasets` has for tags become the names that the file gives them.
    """

    format: str = "auto"
    token_column: int = 0
    tag_column: int = -1
    separator: str = "auto"
    tags: bool = True

    def __call__(self, path: Path) -> Iterator[Item]:
        if not self.is_conll(path):
            return _with_names(read_items(path), class_names(path))
        columns = {key: value for key, value in asdict(self).items() if key != "format"}
        return read_items(path, partial(read_conll, **columns))

    def is_conll(self, path: Path) -> bool:
        return self.format == "conll" or format_of(path) == "conll"

    def check(self, path: Path) -> None:
        """Refuse what cannot be opened as a file of its format. Reads its first bytes only."""
        check_file(path, any_suffix=self.format == "conll")

    def settings(self) -> dict[str, Any]:
        return asdict(self)


def class_names(path: Path) -> list[str]:
    """What the numbers in `tags` or `ner_tags` mean, where the file is a table of `datasets` that says it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if format_of(path) == "parquet":
            schema = pq.read_schema(path)
        elif format_of(path) == "arrow":
            with pa.memory_map(str(path)) as source:
                footer = source.read(6) == b"ARROW1"
                source.seek(0)
                schema = (pa.ipc.open_file(source) if footer else pa.ipc.open_stream(source)).schema
        else:
            return []
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        for key in TAG_KEYS:
            if key in features:
                feature = features[key]
                inner = feature.get("feature") if isinstance(feature, dict) else feature[0]
                names = (inner or feature).get("names") or []
                return names if all(isinstance(name, str) for name in names) else []
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        pass  # a file without such a description, or a damaged one, which its reader refuses
    return []


def _with_names(items: Iterator[Item], names: list[str]) -> Iterator[Item]:
    for item in items:
        if names and isinstance(item, Record):
            for key in TAG_KEYS:
                if isinstance(numbers := item.value.get(key), list):
                    try:
                        item.value[key] = [tag_name(tag, i, key, names) for i, tag in enumerate(numbers, 1)]
                    except DataError as error:
                        item = Fault(item.path, item.line, error)
                        break
        yield item
