"""Tokenised examples on disk, read without copying.

A folder holds `examples.arrow` (an Arrow IPC file, one row an example) and `meta.json` (its size and the
report of how it was made). Rows come in record batches; a batch is closed by its row or token count, so that
writing and reading take constant memory. Token ids are mapped into memory, and every rank and every loader
worker of a machine shares the same pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from glm_train.data.report import PrepareReport, read_report, write_meta

IGNORE = -100  # the label of a token that is not trained
# Token classification: the label of a later piece of a word is its class plus this, so that scores count a word once.
CONTINUES = 1 << 20
BATCH_ROWS = 1024
BATCH_TOKENS = 1 << 20
_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("trained", pa.int32()),
        ("file", pa.int32()),
        ("line", pa.int64()),
        ("part", pa.int32()),
    ]
)


def trained_tokens(labels: np.ndarray) -> int:
    """How many targets a document has. Its first token follows nothing, so it is never one."""
    return int(np.count_nonzero(labels[1:] != IGNORE))


def token_digest(input_ids: np.ndarray, salt: bytes = b"") -> bytes:
    """16 bytes that two examples share where they have the same token ids, the same on every machine."""
    return hashlib.blake2b(input_ids.astype("<i4").tobytes(), digest_size=16, key=salt).digest()


class ExampleWriter:
    """Writes a store into an existing folder; a context manager. The store is complete after `finish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = pa.OSFile(str(folder / "examples.arrow"), "wb")
        self._ipc = pa.ipc.new_file(self._file, _SCHEMA)
        self._rows: list[tuple[np.ndarray, np.ndarray, int, int, int, int]] = []
        self._tokens = 0

    def append(
        self,
        input_ids: np.ndarray,
        labels: np.ndarray,
        *,
        trained: int,
        file: int,
        line: int,
        part: int = 0,
        offset: int = 0,
        size: int = 0,
    ) -> None:
        """One example: int32 ids and labels, its targets, the index of its file, its line counted from 1, its part.

        Where its record stands in the file (`offset`, `size`) is not kept: the tokens are.
        """
        self._rows.append((input_ids, labels, trained, file, line, part))
        self._tokens += len(input_ids)
        if len(self._rows) >= BATCH_ROWS or self._tokens >= BATCH_TOKENS:
            self._flush()

    def finish(self, report: PrepareReport, dropped_at: dict[str, list[tuple[int, int]]]) -> None:
        """Write what is left, the footer, and `meta.json`.

        `dropped_at` is the report's, as (index of the file, line): a cached store may be opened for the same
        content under other file names.
        """
        self._flush()
        self._ipc.close()
        self._file.close()
        write_meta(self._folder / "examples.arrow", report, dropped_at)

    def __enter__(self) -> ExampleWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        ids, labels, trained, files, lines, parts = zip(*self._rows, strict=True)
        columns = [
            _lists(ids),
            _lists(labels),
            _column(trained, pa.int32()),
            _column(files, pa.int32()),
            _column(lines, pa.int64()),
            _column(parts, pa.int32()),
        ]
        self._ipc.write_batch(pa.record_batch(columns, schema=_SCHEMA))
        self._rows, self._tokens = [], 0


class ExampleStore:
    """Prepared examples: `store[i]` is `(input_ids, labels)`, two int32 views into the mapped file.

    There are (T,) ids. The labels of a chat are (T,) and unshifted: the label of a token is the token itself, or -100
    where it is not trained. Other tasks put other values there: see the rules in `collate.py`.

    Attributes:
        lengths: tokens of each example, (n,) int32.
        trained: targets of each example, (n,) int32, by which the loss of a step is divided.
        parts: which of its record's examples each is, from 0, (n,) int32: a long document has several.
        report: how the examples were prepared.
        salt: with which `digest` costs least.
    """

    salt = b""
    _state: tuple[str, ...] = ("_folder", "_files", "_rows", "report")  # what a loader worker needs

    def __init__(
        self, folder: Path, files: Sequence[str], *, cache_hit: bool = False, seconds: float = 0.0
    ) -> None:
        self._folder, self._files = Path(folder), tuple(files)
        self._rows: np.ndarray | None = None
        self.report = read_report(self._folder, self._files, cache_hit, seconds)
        self._open()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        batch, row = self._locate(index)
        (ids, starts), (labels, label_starts) = self._views[batch]
        return ids[starts[row] : starts[row + 1]], labels[label_starts[row] : label_starts[row + 1]]

    def source(self, index: int) -> tuple[str, int]:
        """The file and the line that an example comes from."""
        batch, row = self._locate(index)
        record = self._reader.get_batch(batch)
        return self._files[record.column(3)[row].as_py()], record.column(4)[row].as_py()

    def part(self, index: int) -> int:
        """Which of its record's examples it is."""
        return int(self.parts[index])

    def digest(self, index: int, salt: bytes = b"") -> bytes:
        """The `token_digest` of an example."""
        return token_digest(self[index][0], salt)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that two stores share where they have the same examples (ids and labels) in the same
        order, whatever the files are called and however they are kept."""
        chosen = b"" if self._rows is None else np.asarray(self._rows, "<i8").tobytes()
        return hashlib.sha256(self.report.content.encode() + chosen).hexdigest()[:32]

    def select(self, rows: np.ndarray) -> ExampleStore:
        """The store of these examples alone, in this order, over the same mapped file."""
        chosen = object.__new__(type(self))
        rows = np.asarray(rows) if self._rows is None else self._rows[rows]
        chosen.__setstate__({**self.__getstate__(), "_rows": rows})
        return chosen

    def __getstate__(self) -> dict[str, Any]:
        """Only what a loader worker needs to map the file again."""
        return {name: self.__dict__[name] for name in self._state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(self._folder / "examples.arrow")))
        batches = [self._reader.get_batch(b) for b in range(self._reader.num_record_batches)]
        self._views = [
            [(c.values.to_numpy(), c.offsets.to_numpy()) for c in (batch.column(0), batch.column(1))]
            for batch in batches
        ]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        nothing = np.zeros(0, np.int32)
        self.lengths = np.concatenate([nothing, *(np.diff(starts) for (_, starts), _ in self._views)])
        self.trained = np.concatenate([nothing, *(batch.column(2).to_numpy() for batch in batches)])
        self.parts = np.concatenate([nothing, *(batch.column(5).to_numpy() for batch in batches)])
        if self._rows is not None:
            self.lengths, self.trained = self.lengths[self._rows], self.trained[self._rows]
            self.parts = self.parts[self._rows]

    def _row(self, index: int) -> int:
        """The row of the file that holds an example."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return index if self._rows is None else int(self._rows[index])

    def _locate(self, index: int) -> tuple[int, int]:
        row = self._row(index)
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return batch, row - int(self._starts[batch])


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """Whole numbers as an Arrow array over the same memory. (`pa.array` would import pandas to look at them.)"""
    array = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(array)])


def _lists(rows: Sequence[np.ndarray]) -> pa.ListArray:
    """Rows of different lengths as one Arrow column."""
    offsets = _column(np.cumsum([0, *map(len, rows)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, _column(np.concatenate(rows), pa.int32()))
