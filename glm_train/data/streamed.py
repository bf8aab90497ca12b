"""Examples that are encoded again whenever they are read, so that no token of them is written to disk.

Preparation reads the files once and keeps of each example what the plan of a run needs, 52 bytes: its length, its
targets, where its record stands, and a digest of its token ids. `store[i]` reads the record again, from its place in
the file, and encodes it, in the loader workers where there are any:

    examples.rows   digest 16 | offset 8 | line 8 | length 4 | trained 4 | size 4 | file 4 | part 4

Length, targets and digest are compared at each reading: an example is what was planned, or the run stops.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glm_train.data.encode import Encoder
from glm_train.data.readers.json_lines import read_line
from glm_train.data.readers.record import Fault
from glm_train.data.records import format_of
from glm_train.data.report import PrepareReport, write_meta
from glm_train.data.store import ExampleStore, token_digest
from glm_train.errors import DataError
from glm_train.text.chat import ExampleTooLong

FILE_NAME = "examples.rows"
WRITTEN_ROWS = 4096
_ROW = np.dtype(
    [
        ("digest", "V16"),
        ("offset", "<i8"),
        ("line", "<i8"),
        ("length", "<i4"),
        ("trained", "<i4"),
        ("size", "<i4"),
        ("file", "<i4"),
        ("part", "<i4"),
    ]
)


def check_streamable(path: Path) -> None:
    """Refuse a file whose records cannot be read one by one from their place in it."""
    if format_of(path) != "jsonl":
        raise DataError(
            f"{path}: data.streaming reads JSON Lines, files named .jsonl or .ndjson. Write it as JSON Lines, or"
            " leave data.streaming out."
        )


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns: a file with the same two holds the same."""
    return _state_of(path.stat())


def _state_of(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


class StreamedWriter:
    """Writes a streamed store into an existing folder; a context manager. The store is complete after `finish`.

    `salt` goes into the digests: a store answers `digest` with the same salt without reading the record again.
    """

    def __init__(self, folder: Path, salt: bytes) -> None:
        self._path, self._salt = folder / FILE_NAME, salt
        self._file = self._path.open("wb")
        self._rows: list[tuple[bytes, int, int, int, int, int, int, int]] = []

    def append(
        self,
        input_ids: np.ndarray,
        labels: np.ndarray,
        *,
        trained: int,
        file: int,
        line: int,
        part: int,
        offset: int,
        size: int,
    ) -> None:
        """One example, with the index of its file and where in it the record's bytes are."""
        digest = token_digest(input_ids, self._salt)
        self._rows.append((digest, offset, line, len(input_ids), trained, size, file, part))
        if len(self._rows) >= WRITTEN_ROWS:
            self._flush()

    def finish(self, report: PrepareReport, dropped_at: dict[str, list[tuple[int, int]]]) -> None:
        """Write what is left, and `meta.json`. See `ExampleWriter.finish`."""
        self._flush()
        self._file.close()
        write_meta(self._path, report, dropped_at)

    def __enter__(self) -> StreamedWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _flush(self) -> None:
        self._file.write(np.array(self._rows, _ROW).tobytes())
        self._rows = []


class StreamedStore(ExampleStore):
    """Prepared examples whose tokens are made when they are read; otherwise an `ExampleStore`.

    A file is opened for each reading: no descriptor is shared with another process or counts against a limit, and a
    file that changed is found at once.

    Args:
        folder: what a `StreamedWriter` wrote.
        files: the data files, by the index that was written.
        encoder: the one with which the examples were prepared.
        states: the `file_state` of each file when it was prepared.
        salt: the writer's.
    """

    _state = (*ExampleStore._state, "_encoder", "_states", "salt")

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        *,
        encoder: Encoder,
        states: Sequence[tuple[int, int]],
        salt: bytes = b"",
        cache_hit: bool = False,
        seconds: float = 0.0,
    ) -> None:
        self._encoder, self._states, self.salt = encoder, tuple(states), salt
        super().__init__(folder, files, cache_hit=cache_hit, seconds=seconds)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read and encode one record: (T,) int32 ids and labels.

        Raises:
            DataError: the file is gone, or it or the record is no longer what was prepared.
        """
        row = self._table[self._row(index)]
        path, line = self._files[row["file"]], int(row["line"])
        item = read_line(self._read(row), Path(path), line, int(row["offset"]))
        try:
            if isinstance(item, Fault):
                raise item.error
            example = self._encoder(item.value)[row["part"]]
        except (DataError, ExampleTooLong, IndexError):
            raise _changed(f"{path}:{line}") from None
        same = (
            len(example.input_ids) == row["length"]
            and example.trained == row["trained"]
            and token_digest(example.input_ids, self.salt) == row["digest"].tobytes()
        )
        if not same:
            raise _changed(f"{path}:{line}")
        return example.input_ids, example.labels

    def source(self, index: int) -> tuple[str, int]:
        row = self._table[self._row(index)]
        return self._files[row["file"]], int(row["line"])

    def digest(self, index: int, salt: bytes = b"") -> bytes:
        """The `token_digest` of an example, without reading it where `salt` is the store's own."""
        if salt != self.salt:
            return super().digest(index, salt)
        return self._table[self._row(index)]["digest"].tobytes()

    def _open(self) -> None:
        self._table = np.memmap(self._folder / FILE_NAME, _ROW, mode="r")
        rows = slice(None) if self._rows is None else self._rows
        self.lengths = np.array(self._table["length"][rows], np.int32)
        self.trained = np.array(self._table["trained"][rows], np.int32)
        self.parts = np.array(self._table["part"][rows], np.int32)

    def _read(self, row: np.void) -> bytes:
        """The bytes of a record, from a file that is still the one that was prepared."""
        path = self._files[row["file"]]
        try:
            with Path(path).open("rb", buffering=0) as file:
                if _state_of(os.fstat(file.fileno())) != self._states[row["file"]]:
                    raise _changed(path)
                return os.pread(file.fileno(), int(row["size"]), int(row["offset"]))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read any more: {error.strerror or error}. With data.streaming=true the file is"
                " read all through the run: put it back, and resume."
            ) from None


def _changed(place: str) -> DataError:
    return DataError(
        f"{place}: the file changed since it was prepared. With data.streaming=true it is read all through the run:"
        " put the old file back and resume, or start a new run."
    )
