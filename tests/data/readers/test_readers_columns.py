"""Parquet and Arrow files: rows as they were before a table filled them with nulls; damage is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glm_train.data.readers import columns
from glm_train.data.records import Fault, read_items, read_records
from support.reading import refusal

RECORDS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "你"}, {"role": "assistant", "content": "b", "train": False}]},
    {
        "messages": [
            {"role": "user", "content": "c"},
            {"role": "assistant", "calls": [{"name": "f", "x": {"a": 1}}]},
        ],
        "tools": [{"name": "f"}],
    },
    {"messages": [{"role": "assistant", "calls": [{"name": "g", "x": {"b": "s"}}]}], "tools": []},
]
UNPACKED: dict[str, dict[str, Any]] = {
    "parquet": {"compression": "none", "use_dictionary": False},
    "arrow file": {},
    "arrow stream": {},
}
KINDS = ["parquet", "arrow file", "arrow stream"]


def write(folder: Path, table: pa.Table, kind: str = "parquet", **options: Any) -> Path:
    if kind == "parquet":
        pq.write_table(table, folder / "data.parquet", **options)
        return folder / "data.parquet"
    path = folder / "data.arrow"
    opener = pa.ipc.new_file if kind == "arrow file" else pa.ipc.new_stream
    with opener(str(path), table.schema) as writer:
        writer.write_table(table, **options)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_nulls_that_a_table_filled_in_are_gone(tmp_path: Path, kind: str) -> None:
    table = pa.table({key: [record.get(key) for record in RECORDS] for key in ("messages", "tools")})
    path = write(tmp_path, table, kind)
    assert [item.value for item in read_records(path)] == RECORDS


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_counted_over_batches(tmp_path: Path, kind: str) -> None:
    size = {"row_group_size": 50} if kind == "parquet" else {"max_chunksize": 50}
    path = write(tmp_path, pa.table({"a": list(range(130))}), kind, **size)
    assert [(item.value["a"], item.line) for item in read_records(path)] == [(i, i + 1) for i in range(130)]


@pytest.mark.parametrize("kind", KINDS)
def test_json_marked_as_such_is_read(tmp_path: Path, kind: str) -> None:
    """As the `Json` feature of `datasets` stores objects that differ from row to row."""
    texts = ['{"city": "北京", "n": null}', "[1]", "{broken", None]
    marked = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
    calls = pa.ListArray.from_arrays(
        pa.array(range(5), pa.int32()), pa.StructArray.from_arrays([marked], ["arguments"])
    )
    items = list(read_items(write(tmp_path, pa.table({"calls": calls}), kind)))
    assert [item.value["calls"] for item in items[:2]] == [
        [{"arguments": {"city": "北京", "n": None}}],
        [{"arguments": [1]}],
    ]
    assert isinstance(items[2], Fault)
    assert "a value marked as JSON is not JSON" in str(items[2].placed())
    assert items[2].line == 3
    assert items[3].value == {"calls": [{}]}


def test_text_that_is_none_is_a_fault_of_its_row(tmp_path: Path) -> None:
    bad = pa.StringArray.from_buffers(
        3, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")
    )
    path = write(tmp_path, pa.table({"a": bad}))
    items = list(read_items(path))
    assert [(type(item) is Fault, item.line) for item in items] == [(False, 1), (True, 2), (False, 3)]
    assert refusal(path).startswith(f"{path}:2: a text of it is not UTF-8")


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, pa.table({"a": pa.array([], pa.string())}), kind)
    assert refusal(path) == f"{path}: the table has no rows. Write one record a row."


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_cut_files_are_refused(tmp_path: Path, kind: str, keep: float) -> None:
    table = pa.table({"a": [f"text number {i}" for i in range(3000)]})
    path = write(tmp_path, table, kind, **({} if kind == "parquet" else {"max_chunksize": 100}))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    text = refusal(path)
    assert text.startswith(f"{path}:")
    assert "cannot be read from this row on: " in text
    assert "The file is damaged or incomplete; write it again." in text


@pytest.mark.parametrize("kind", KINDS)
def test_foreign_bytes_are_refused(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, pa.table({"a": [1]}), kind)
    path.write_bytes(json.dumps(RECORDS).encode())
    assert "cannot be read from this row on: " in refusal(path)


def test_offsets_beyond_the_end_are_refused(tmp_path: Path) -> None:
    """A damaged Arrow file would otherwise be read past its memory."""
    path = write(tmp_path, pa.table({"a": ["abcdefgh"] * 4}), "arrow file")
    raw = path.read_bytes()
    offsets = pa.array([0, 8, 16, 24, 32], pa.int32()).buffers()[1].to_pybytes()[:20]
    assert raw.count(offsets) == 1
    path.write_bytes(raw.replace(offsets, offsets[:16] + (1 << 30).to_bytes(4, "little")))
    assert "cannot be read from this row on: " in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_names_of_columns(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, pa.table({"some_name": ["x"]}), kind)
    path.write_bytes(path.read_bytes().replace(b"some_name", b"some\xffname"))
    assert refusal(path).startswith(f"{path}:1: cannot be read from this row on: ")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = write(tmp_path, pa.Table.from_arrays([pa.array(["x"])] * 2, names=["a", "a"]))
    assert refusal(path) == f"{path}: two columns are named 'a'. Rename one of the two."


def test_parquet_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four megabytes of one letter in a few hundred bytes; the real limit is 64 MiB for a column of a row group."""
    monkeypatch.setattr(columns, "_SAFE_BYTES", 1 << 20)
    table = pa.table({"a": ["x" * 2_000_000, "x" * 2_000_001]})
    path = write(tmp_path, table, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    assert "the column 'a' would unpack " in refusal(path)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """Rows are turned into Python objects a few at a time, whatever the size of the file's batches."""
    path = write(tmp_path, pa.table({"a": [f"{i:1000}" for i in range(20_000)]}), kind, **UNPACKED[kind])
    most = 0
    for item in read_records(path):
        most = max(most, pa.total_allocated_bytes())
        assert item.value["a"].strip() == str(item.line - 1)
    assert item.line == 20_000
    assert most < 12 << 20, "20 MB of rows were read with more than 12 MiB of memory"
