"""Parquet and Arrow files, a few rows at a time. They have no lines; a record's `line` is its row, from 1.

A struct in a table has every key that any of its rows has, filled with null where a row has none. Such keys
are taken out again, as GLM-4's own fine-tuning code does. Values that the file marks as JSON text (the
`Json` feature of `datasets`) are read as JSON. Ids of a `ClassLabel` feature of `datasets` are read as the names
that the file gives them; its -1, for no label, as null.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.data.readers.json_text import parse_json
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 32  # held as Python objects at a time
_BUFFER_BYTES = 1 << 20
_PLAUSIBLE_RATIO, _SAFE_BYTES = 100, 64 * 1024 * 1024
_DAMAGED = "The file is damaged or incomplete; write it again."


def read_parquet(path: Path) -> Iterator[Item]:
    """The rows of a Parquet file."""
    import pyarrow.parquet as pq

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            _refuse_bombs(path, file.metadata)
            yield from file.iter_batches(batch_size=_ROWS)

    return _read(path, batches())


def read_arrow(path: Path) -> Iterator[Item]:
    """The rows of an Arrow file in either IPC form: the one with a footer, or the stream that `datasets`
    writes."""
    import pyarrow as pa

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as source:
            footer = source.read(6) == b"ARROW1"
            source.seek(0)
            if footer:
                file = pa.ipc.open_file(source)
                found = (file.get_batch(i) for i in range(file.num_record_batches))
            else:
                found = iter(pa.ipc.open_stream(source))
            for batch in found:
                batch.validate(full=True)  # a damaged file would be read past its end
                for start in range(0, batch.num_rows, _ROWS):
                    yield batch.slice(start, _ROWS)

    return _read(path, batches())


def class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """The names of the classes, by id, of each column of a Parquet or Arrow file that holds ids of classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            return _class_names(pq.read_schema(path))
        with pa.memory_map(str(path)) as source:
            footer = source.read(6) == b"ARROW1"
            source.seek(0)
            file = pa.ipc.open_file(source) if footer else pa.ipc.open_stream(source)
            return _class_names(file.schema)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {str(error).splitlines()[:1]}. {_DAMAGED}") from None


def _class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """From the features that `datasets` writes into the schema; of a column of ids, or of lists of them."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described["info"]["features"]
        found = {}
        for name in schema.names:
            feature = features.get(name)
            if isinstance(feature, list) and len(feature) == 1:
                feature = feature[0]
            elif isinstance(feature, dict) and feature.get("_type") in ("Sequence", "List", "LargeList"):
                feature = feature.get("feature")
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
                found[name] = feature.get("names")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}  # a table that `datasets` did not write
    texts = {n: v for n, v in found.items() if isinstance(v, list) and all(isinstance(x, str) for x in v)}
    return {name: tuple(names) for name, names in texts.items() if len(set(names)) == len(names) > 0}


def _named(ids: Any, names: tuple[str, ...], column: str) -> Any:
    """The names that ids of classes stand for; other values as they are."""
    if isinstance(ids, list):
        return [_named(item, names, column) for item in ids]
    if not isinstance(ids, int) or isinstance(ids, bool) or ids == -1:
        return None if ids == -1 else ids
    if not 0 <= ids < len(names):
        raise DataError(f"{column!r} holds the id {ids}, and its feature names {len(names)} classes, from 0.")
    return names[ids]


def _read(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Item]:
    import pyarrow as pa

    row, convert = 0, None
    try:
        for batch in batches:
            if convert is None:
                convert = _row_converter(path, batch.schema)
            size = batch.nbytes // max(batch.num_rows, 1)
            for value in _values(batch):
                row += 1
                yield _read_row(value, convert, path, row, size)
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}:{row + 1}: cannot be read from this row on: {what}. {_DAMAGED}") from None
    if not row:
        raise DataError(f"{path}: the table has no rows. Write one record a row.")


def _values(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The rows as pyarrow gives them; None for one with a text that is none."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [value for i in range(batch.num_rows) for value in _values(batch.slice(i, 1))]


def _read_row(value: Any, convert: Callable[[Any], Any], path: Path, row: int, size: int) -> Item:
    if value is None:
        error = DataError("a text of it is not UTF-8. Write the file again from UTF-8 text.")
        return Fault(str(path), row, error)
    try:
        return Record(convert(value), str(path), row, size)
    except json.JSONDecodeError as found:
        error = DataError(f"a value marked as JSON is not JSON: {found}. Write the file again.")
    except DataError as found:
        error = found
    return Fault(str(path), row, error)


def _row_converter(path: Path, schema: pa.Schema) -> Callable[[Any], Any]:
    import pyarrow as pa

    if repeated := [name for name in schema.names if schema.names.count(name) > 1]:
        raise DataError(f"{path}: two columns are named {repeated[0]!r}. Rename one of the two.")
    convert = _converter(pa.struct(list(schema))) or (lambda value: value)
    classes = _class_names(schema)
    if not classes:
        return convert

    def with_names(value: Any) -> Any:
        found = convert(value)
        named = {key: _named(found[key], names, key) for key, names in classes.items() if key in found}
        return {key: value for key, value in (found | named).items() if value is not None}

    return with_names


def _converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What turns a value of this type, as pyarrow gives it, into what was written; None for no change."""
    import pyarrow as pa

    if isinstance(kind, pa.JsonType):
        return lambda value: value if value is None else parse_json(value)
    if pa.types.is_struct(kind):
        inner = {kind.field(i).name: _converter(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: None if value is None else _without_nulls(value, inner)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _converter(kind.value_type)
        if item is not None:
            return lambda value: None if value is None else [item(element) for element in value]
    return None


def _without_nulls(
    value: dict[str, Any], converters: dict[str, Callable[[Any], Any] | None]
) -> dict[str, Any]:
    found = {}
    for key, inner in value.items():
        if inner is not None:
            convert = converters.get(key)
            found[key] = convert(inner) if convert else inner
    return found


def _refuse_bombs(path: Path, metadata: Any) -> None:
    """A small file that claims to unpack into far more than data does."""
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            size, packed = chunk.total_uncompressed_size, max(chunk.total_compressed_size, 1)
            if size > _SAFE_BYTES and size > _PLAUSIBLE_RATIO * packed:
                raise DataError(
                    f"{path}: the column {chunk.path_in_schema!r} would unpack {packed:,} bytes into {size:,}."
                    " It looks like a bomb; if it is none, write the file again with smaller row groups."
                )
