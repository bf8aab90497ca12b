"""Parquet and Arrow files, a few rows at a time. They have no lines; a record's `line` is its row, from 1.

A struct in a table has every key that any of its rows has, filled with null where a row has none. Such keys
are taken out again, as GLM-4's own fine-tuning code does. Values that the file marks as JSON text (the
`Json` feature of `datasets`) are read as JSON.
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
    return _converter(pa.struct(list(schema))) or (lambda value: value)


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
