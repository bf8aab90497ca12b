"""What the commands leave: a JSON Lines file that is there whole or not at all, and the numbers of an evaluation."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from glm_train.bar import Progress, silent
from glm_train.errors import ConfigError, DataError

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

_SHOWN_FAULTS = 5


@dataclass(frozen=True)
class PredictOptions:
    """How a file is answered.

    Attributes:
        config: the run's settings with the command line's, or the schema's defaults; `given` are the command line's.
        device: `cpu` or `cuda`, where the model is.
        overwrite: replace the output where it exists.
        threshold: several labels: a label is given from this probability on.
        generation: chat: what the command line says of the drawing of tokens, as `GlmForCausalLM.generate` takes it.
        progress: is told how many records are answered.
    """

    config: RunConfig
    given: frozenset[str] = frozenset()
    device: str = "cpu"
    overwrite: bool = False
    threshold: float | None = None
    generation: dict[str, Any] = field(default_factory=dict)
    progress: Progress = silent


@dataclass
class Summary:
    """What became of the records of a file."""

    predicted: int = 0
    faulty: int = 0
    first_faults: list[str] = field(default_factory=list)  # `path:line: what`
    incomplete: bool = False  # the rest of the file could not be read
    notes: list[str] = field(default_factory=list)  # what else the user should know, a line each


@dataclass
class Evaluation:
    """The scores of a model on labelled data: by name, as `fit` logs them, and as tables to print."""

    metrics: dict[str, float]
    tables: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class OutputFile:
    """Writes one JSON object a line; a faulty record has a line of its own, in its place."""

    def __init__(self, file: BinaryIO, output: Path, source: Path) -> None:
        self._file, self._output, self._source = file, output, source
        self.summary = Summary()

    def write(self, line: int, value: dict[str, Any]) -> None:
        """The answer for the record that begins on `line` of the source."""
        self._append({"line": line, **value})
        self.summary.predicted += 1

    def fault(self, line: int, error: str) -> None:
        """What is wrong with that record, without its place."""
        self._append({"line": line, "error": error})
        summary = self.summary
        summary.faulty += 1
        if len(summary.first_faults) < _SHOWN_FAULTS:
            summary.first_faults.append(f"{self._source}:{line}: {error}")

    def _append(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        # Half a surrogate pair has no UTF-8. As an escape it is JSON again.
        with _disk_errors(self._output):
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def check_places(source: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse an `output` that cannot or may not be written, before anything is computed.

    Raises `ConfigError`. Whether `source` can be read, its reader says.
    """
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            output.stat()  # finds the names that pathlib's questions take for files that are not there
        if output.is_dir():
            raise ConfigError(f"{output}: this is a folder. Give the name of the file to write.")
        if output.exists() and source.exists() and output.samefile(source):
            raise ConfigError(f"{output}: input and output are the same file. Give the output another name.")
        if output.exists() and not output.is_file():
            raise ConfigError(f"{output}: this is not a regular file. Give the name of the file to write.")
        if not output.parent.is_dir():
            raise ConfigError(f"{output}: there is no folder {str(output.parent)!r}. Make it first.")
        if output.exists() and not overwrite:
            raise ConfigError(f"{output}: this file exists. Give another name, or add --overwrite.")
        if not os.access(output.parent, os.W_OK):
            raise ConfigError(f"{output}: no permission to write into {str(output.parent)!r}.")
    except (OSError, ValueError) as error:  # a name too long, or with a NUL
        what = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(output)[:80]!r} cannot be written: {what}.") from None


@contextmanager
def output_file(output: Path, source: Path) -> Iterator[OutputFile]:
    """A file that gets its name when it is complete, and leaves nothing behind where it does not come to that.

    Raises:
        DataError: no record of `source` gave an answer; the file with the faults is not kept. ConfigError: the disk
            refuses.
    """
    part = output.with_name(f"{output.name}.{os.getpid()}.part")
    try:
        with _disk_errors(output):
            file = part.open("wb")
        with file:
            written = OutputFile(file, output, source)
            yield written
            with _disk_errors(output):
                file.flush()
                os.fsync(file.fileno())
        _refuse_nothing(source, written.summary)
        with _disk_errors(output):
            part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def report(summary: Summary, output: Path) -> None:
    """Say on standard error how many records were answered, and which could not be read."""
    for note in summary.notes:
        print(f"glm-train: {note}", file=sys.stderr)
    if summary.faulty:
        print(
            f"glm-train: {summary.faulty:,} of {summary.predicted + summary.faulty:,} records could not be read; each"
            f" has a line with `error` in {output}. The first:",
            file=sys.stderr,
        )
        for fault in summary.first_faults:
            print(f"  {fault}", file=sys.stderr)


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{output}: could not be written: {error.strerror or error}.") from None


def _refuse_nothing(source: Path, summary: Summary) -> None:
    if summary.predicted:
        return
    if not summary.faulty:
        raise DataError(f"{source}: the file holds no record.")
    more = summary.faulty - len(summary.first_faults)
    rest = [f"and {more:,} more"] if more else []
    count = "its one record" if summary.faulty == 1 else f"all of its {summary.faulty:,} records"
    raise DataError("\n".join([f"{source}: {count} cannot be read:", *summary.first_faults, *rest]))
