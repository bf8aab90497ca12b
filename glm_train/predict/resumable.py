"""An output that may take days: lines are appended in order, and a stopped run goes on behind the last whole one.

OUT.part        the lines so far
OUT.part.json   of which input, model and settings they are
OUT             all of them; then the other two are gone
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from glm_train.adapters.opened import base_of
from glm_train.errors import ConfigError, DataError
from glm_train.predict.output import OutputFile, Summary

_SAMPLE = 1 << 16  # bytes of each end of a file that tell it from others
_PLACES = 256  # further places within it, evenly spread: other weights may end as these do
_PLACE = 1 << 12  # bytes


def identity_of(folder: Path) -> dict[str, str]:
    """What tells a model folder from one with other weights, at little cost: sizes, settings, and parts of files.

    Those of an adapter's base are among them, under `base/`.
    """
    base = base_of(folder)
    found = {path.name: _sampled(path) for path in _files_of(folder)}
    return (
        found if base == folder else found | {f"base/{path.name}": _sampled(path) for path in _files_of(base)}
    )


def _files_of(folder: Path) -> list[Path]:
    kinds = ("*.safetensors", "*.json", "*.jinja", "*.model")
    return sorted(path for kind in kinds for path in folder.glob(kind))


def _sampled(path: Path) -> str:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(str(size).encode() + file.read(_SAMPLE), digest_size=16)
        for number in range(1, _PLACES if size > 2 * _SAMPLE else 0):
            file.seek(size * number // _PLACES)
            digest.update(file.read(_PLACE))
        file.seek(max(size - _SAMPLE, 0))
        digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


class ResumableOutput:
    """A context that takes lines as `OutputFile` does. `lines` are there already; `finished` says that all are.

    Raises `ConfigError` on entering where an output stands in the way, or is of other input or settings, and
    `DataError` on leaving where no record was answered.
    """

    def __init__(
        self, output: Path, source: Path, settings: dict[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        self._output, self._source, self._settings = output, source, settings
        self._resume, self._overwrite = resume, overwrite
        self._part = output.with_name(f"{output.name}.part")
        self._state = output.with_name(f"{output.name}.part.json")
        self._file: BinaryIO | None = None
        self._lines: OutputFile | None = None
        self.summary = Summary()
        self.lines, self.finished = 0, False

    def write(self, line: int, value: dict[str, Any]) -> None:
        """The answer for the record that begins on `line` of the source."""
        assert self._lines is not None
        self._lines.write(line, value)

    def fault(self, line: int, error: str) -> None:
        """What is wrong with that record, without its place."""
        assert self._lines is not None
        self._lines.fault(line, error)

    def flush(self) -> None:
        """Put the lines so far on the disk, where a kill cannot take them."""
        assert self._file is not None
        with _disk_errors(self._part):
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> ResumableOutput:
        if self._resume and self._output.exists() and not self._part.exists():
            self.finished = True
            self._count(self._output)
            self.summary.notes.append(f"{self._output} is complete: nothing was left to do")
            return self
        if self._output.exists() and not (self._resume or self._overwrite):
            raise ConfigError(f"{self._output}: this file exists. Give another name, or add --overwrite.")
        if self._part.exists() and not (self._resume or self._overwrite):
            raise ConfigError(
                f"{self._part}: an unfinished output of that name. Add --resume to go on with it, or --overwrite to"
                " begin again."
            )
        state = {"source": _digest(self._source), **self._settings}
        going_on = self._resume and self._part.exists()
        if going_on:
            self._check(state)
        with _disk_errors(self._part):
            self._file = self._part.open("r+b" if self._part.exists() else "wb")
        self._lock(self._file)
        if going_on:
            _end_at_whole_line(self._file)
            self.lines = self._count(self._part)
            self.summary.notes.append(f"went on behind the {self.lines:,} lines of {self._part}")
        else:
            self._file.truncate(0)
            with _disk_errors(self._state):
                self._state.write_text(json.dumps(state, indent=1), encoding="utf-8")
        self._lines = OutputFile(self._file, self._part, self._source)
        self._lines.summary = self.summary
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        try:
            if kind is None:
                self.flush()
            empty = self._part.stat().st_size == 0 if kind else self.summary.predicted == 0
        finally:
            self._file.close()
        if empty:
            self._part.unlink()
            self._state.unlink(missing_ok=True)
        if kind is not None:
            return
        if empty:
            raise DataError(self._why_empty())
        with _disk_errors(self._output):
            self._part.replace(self._output)
            self._state.unlink(missing_ok=True)

    def _why_empty(self) -> str:
        if not self.summary.faulty:
            return f"{self._source}: the file holds no record."
        count = f"all of its {self.summary.faulty:,} records" if self.summary.faulty > 1 else "its one record"
        return "\n".join([f"{self._source}: {count} cannot be answered:", *self.summary.first_faults])

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse to go on with lines of another input, model or setting."""
        try:
            before = json.loads(self._state.read_text(encoding="utf-8"))
            other = sorted(name for name in {*state, *before} if state.get(name) != before.get(name))
        except (OSError, ValueError, TypeError):
            raise ConfigError(
                f"{self._state}: cannot be read, so nobody knows what {self._part} belongs to. Add --overwrite in place"
                " of --resume to begin again."
            ) from None
        if other:
            what = {"source": f"the input file {self._source}", "model": "the model"}
            names = ", ".join(what.get(name, name) for name in other)
            raise ConfigError(
                f"{self._part}: was made from other input or settings; what differs: {names}. Use those again, or"
                " begin again with --overwrite in place of --resume."
            )

    def _lock(self, file: BinaryIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise ConfigError(f"{self._part}: another process writes it. Wait for it, or end it.") from None

    def _count(self, path: Path) -> int:
        """Take the lines that are there into the summary; how many they are."""
        count = 0
        with path.open("rb") as file:
            for count, line in enumerate(file, 1):
                try:
                    value = json.loads(line)
                    faulty = "error" in value
                    _ = value["line"]
                except (ValueError, TypeError, KeyError):
                    raise ConfigError(
                        f"{path}:{count}: this is no line of predict's. Move the file away, or add --overwrite in place"
                        " of --resume."
                    ) from None
                self.summary.faulty += faulty
                self.summary.predicted += not faulty
        return count


def _end_at_whole_line(file: BinaryIO) -> None:
    """Cut off what stands behind the last line break, and stand there."""
    end = file.seek(0, os.SEEK_END)
    while end:
        begin = max(end - _SAMPLE, 0)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            end = begin + found + 1
            break
        end = begin
    file.truncate(end)
    file.seek(end)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    return digest.hexdigest()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: could not be written: {error.strerror or error}.") from None
