"""Records become token ids, in this process or in several, in file order whatever the number of processes.

    files -> records and faults -> chunks of them -> encoded chunks
                                                     each up to its first fault, or with faults skipped

A new task brings its own `Encoder` and shares the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from glm_train.data.readers.json_lines import Line, unread_lines
from glm_train.data.readers.record import Item
from glm_train.data.records import Fault, Record, format_of, read_items
from glm_train.errors import DataError
from glm_train.text.chat import ExampleTooLong

CHUNK_RECORDS, CHUNK_BYTES = 64, 1 << 20
CHUNKS_AHEAD = 64  # finished in this process behind one that a worker has not finished
TOO_LONG = "longer than data.max_length"
FAULTY = "faulty: "  # what the reason begins with for which a faulty record is left out

_worker_encoder: Encoder | None = None


def encode_files(
    paths: list[Path], encoder: Encoder, *, workers: int, skip: bool = False, read: Reader = read_items
) -> Generator[Result, None, None]:
    """For each chunk of records: the index of its file, its examples, and the fault that ended it, if any.

    `read` gives the records of a file. A record may become several examples: their `part` counts them.

    With `skip`, a faulty record is an example that is dropped, and only a fault behind which the file cannot be
    read ends a chunk. The first fault that comes out is the first one in the files; the caller raises it. With
    `workers` above 1 that many processes encode; each gets the encoder pickled.
    """
    if workers > 1:
        return _encode_parallel(_chunks(paths, skip, read, unread=True), encoder, workers)
    return (_encode_chunk(chunk, encoder) for chunk in _chunks(paths, skip, read))


def usable_cores() -> int:
    """The cores that this process may use; at most sixteen, beyond which the reader of the file is the slowest."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(16, len(affinity(0)) if affinity else os.cpu_count() or 1)


def reason_of(error: DataError) -> str:
    """The kind of a fault, the same for all records that have it: its message without places, values and cure.

    `messages[3]: it has the role 'asistant'. Use one of: ...` -> `it has the role '...'`
    """
    text = str(error).partition("\n")[0]
    text = re.sub(r"^(\w+\[\d+\]: )+", "", text)
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", text)
    text = re.sub(r"^word \d+(, '\.\.\.')?: ", "", text)
    text = re.sub(r"'\.\.\.'(, '\.\.\.')+", "...", text)  # the names that there are
    text = re.split(r"[.;] |: (?=it has|the )|[.;:]$", text)[0]
    return re.sub(r"(?<![\w-])\d[\d,]*\b|(?<=0x)\w+|(?<=\\u)\w{4}", "N", text)[:100]


def _chunks(paths: list[Path], skip: bool, read: Reader, unread: bool = False) -> Iterator[_Chunk]:
    """Runs of records of one file; a fault that ends the file, or with which the run is to stop, ends the last.

    With `unread` the lines of JSON Lines are left for another process to read, which takes longer than to send them.
    """
    for file, path in enumerate(paths):
        items: list[Record | Fault | Line] = []
        error, size = None, 0
        try:
            lines = unread and read is read_items and format_of(path) == "jsonl"
            source: Iterator[Any] = read_items(path, cast("Any", unread_lines)) if lines else read(path)
            for item in source:
                if isinstance(item, Fault) and not skip:
                    error = item.placed()
                    break
                items.append(item)
                size += 0 if isinstance(item, Fault) else item.size
                if len(items) == CHUNK_RECORDS or size >= CHUNK_BYTES:
                    yield _Chunk(file, items, skip)
                    items, size = [], 0
        except DataError as found:
            error = found
        if items or error:
            yield _Chunk(file, items, skip, error)
        if error:
            return


def _encode_chunk(chunk: _Chunk, encoder: Encoder | None = None) -> Result:
    """The chunk's examples, up to its first fault where faults are not skipped, and that fault."""
    encoder = encoder or _worker_encoder
    assert encoder is not None
    examples: list[Encoded] = []
    for item in chunk.items:
        item = item.read() if isinstance(item, Line) else item
        try:
            if isinstance(item, Fault):
                raise item.error
            made = encoder(item.value)
        except ExampleTooLong:
            made = [Encoded(dropped=TOO_LONG)]
        except DataError as error:
            if not chunk.skip:
                return chunk.file, examples, error.at(item.path, item.line)
            made = [Encoded(dropped=FAULTY + reason_of(error))]
        except Exception as error:  # a fault of ours: say at least where it was met
            error.add_note(f"while reading {item.path}:{item.line}")
            raise
        for part, example in enumerate(made):
            example.line, example.part = item.line, part
            if isinstance(item, Record):
                example.offset, example.size = item.offset, item.size
        examples += made
    return chunk.file, examples, chunk.error


def _encode_parallel(
    chunks: Iterator[_Chunk], encoder: Encoder, workers: int
) -> Generator[Result, None, None]:
    """The same results in the same order, with at most four chunks a worker under way.

    While they have that many, and most of all while they start, this process encodes too, as far as it may go ahead
    of them. Processes are spawned, not forked: the tokenizer's threads do not survive a fork.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(encoder,))
    try:
        pending: deque[Future[Result]] = deque()
        for chunk in chunks:
            busy = sum(not future.done() for future in pending) >= 4 * workers
            pending.append(_encode_here(chunk, encoder) if busy else pool.submit(_encode_chunk, chunk))
            while pending and (pending[0].done() or len(pending) > 4 * workers + CHUNKS_AHEAD):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "a process that prepares the data died, perhaps for lack of memory. Set data.workers=0."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _encode_here(chunk: _Chunk, encoder: Encoder) -> Future[Result]:
    done: Future[Result] = Future()
    done.set_result(_encode_chunk(chunk, encoder))
    return done


def _start_worker(encoder: Encoder) -> None:
    global _worker_encoder
    _worker_encoder = encoder


@dataclass
class Encoded:
    """One example: (T,) int32 ids, and its labels, int32 values whose number and meaning are the task's business.

    `trained` is its part of what the loss of an optimizer step is divided by. `dropped` says why there is none.
    """

    input_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    trained: int = 0
    dropped_messages: int = 0
    dropped_tokens: int = 0  # that truncation took away
    cut: bool = False
    dropped: str = ""
    line: int = 0
    part: int = 0  # which of its record's examples it is
    offset: int = 0  # where the record stands in a file of JSON Lines, and its bytes
    size: int = 0


class Encoder(Protocol):
    """Turns the value of one record into examples; picklable. Faults are DataErrors without a place."""

    def __call__(self, value: dict[str, Any]) -> list[Encoded]: ...

    def settings(self) -> dict[str, Any]:
        """All that decides tokens and labels, as JSON values."""
        ...


@dataclass(frozen=True)
class _Chunk:
    file: int
    items: list[Record | Fault | Line]
    skip: bool
    error: DataError | None = None


Result = tuple[int, list[Encoded], DataError | None]
Reader = Callable[[Path], Iterator[Item]]
