"""Data files become a store of tokenised examples: once, before any training process exists."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from glm_train.bar import Progress, silent
from glm_train.data.cache import cached_folder, default_cache_dir, file_digest
from glm_train.data.chat_formats import CHAT_FORMATS, parse_chat
from glm_train.data.encode import Encoded, Encoder, Reader, encode_files
from glm_train.data.records import check_file, format_of, read_items
from glm_train.data.report import is_complete
from glm_train.data.store import ExampleStore, ExampleWriter, trained_tokens
from glm_train.data.streamed import FILE_NAME, StreamedStore, StreamedWriter, check_streamable, file_state
from glm_train.data.tally import EXAMPLES, Tally, Wording
from glm_train.errors import ConfigError, DataError, nearest
from glm_train.text.chat import encode_chat_packed
from glm_train.text.tokenizer import GlmTokenizer

CACHE_VERSION = 3
PARALLEL_BYTES = 32 * 1024 * 1024  # below this, starting processes takes longer than they save
ON_ERROR = ("error", "skip")
_CHATS = Wording(
    cut="cut the last answer of {} examples; a cut answer gets no stop token",
    layout="Name the layout of its records with data.format",
    length="Raise data.max_length, or change data.train_on or the data",
)


class PrepareOptions(TypedDict, total=False):
    """How files of any task are prepared: keyword arguments, each with the default of `prepare`.

    on_error: what to do with a faulty record: "error" stops at the first; "skip" leaves it out and counts it.
    cache_dir: where prepared data is kept; default `$GLM_TRAIN_CACHE`, else `~/.cache/glm-train`.
    workers: processes that tokenise large files; 0 and 1 mean this process. The result is the same.
    progress: is told how many records are done, and 0 for the total, which nobody knows.
    streaming: keep no tokens; the store reads and encodes a record of JSON Lines whenever it is asked for it.
    salt: of a streaming store, with which its digests cost nothing.
    """

    on_error: str
    cache_dir: str | Path | None
    workers: int
    progress: Progress
    streaming: bool
    salt: bytes


def prepare_chat(
    files: Sequence[str | Path],
    tokenizer: GlmTokenizer,
    *,
    format: str = "auto",
    train_on: str = "assistant",
    max_length: int | None = None,
    truncation: str = "oldest_turns",
    stop_token: str = "role",
    **options: Unpack[PrepareOptions],
) -> ExampleStore:
    """Chat records as tokenised examples, from the cache if they were prepared before.

    Args:
        files: data files, in the order in which their examples are to stand.
        format: a name in `CHAT_FORMATS`, or "auto" to recognise each record's.
        train_on, max_length, truncation, stop_token: as for `text.chat.encode_chat`.
        options: see `PrepareOptions`.

    Examples longer than `max_length` that cannot be shortened, and examples without a trained token, are left
    out and counted in the store's report.

    Raises:
        ConfigError: an unknown format or `on_error`.
        DataError: a file or record cannot be used (the first one, with file and line), every record of a file
            is faulty, or no example is left.
    """
    if format != "auto" and format not in CHAT_FORMATS:
        known = ("auto", *CHAT_FORMATS)
        raise ConfigError(
            f"data.format={format!r} is unknown. Use one of: {', '.join(known)}.{nearest(format, known)}"
        )
    encoder = ChatEncoder(tokenizer, format, train_on, max_length, truncation, stop_token)
    return prepare(files, encoder, wording=_CHATS, **options)


def prepare(
    files: Sequence[str | Path],
    encoder: Encoder,
    *,
    wording: Wording = EXAMPLES,
    read: Reader | None = None,
    on_error: str = "error",
    cache_dir: str | Path | None = None,
    workers: int = 0,
    progress: Progress = silent,
    streaming: bool = False,
    salt: bytes = b"",
) -> ExampleStore:
    """The examples that `encoder` makes of the records of `files`, in file order, from the cache if they are there.

    `read` takes the place of the reader that a file's suffix chooses; the encoder's settings say how it reads.
    `wording` is how reports and refusals speak of the task's records. The rest: see `PrepareOptions`.
    """
    if not files:
        raise DataError("no data file is named. Set data.train.")
    if on_error not in ON_ERROR:
        raise ConfigError(f"data.on_error={on_error!r} is unknown. Use one of: {', '.join(ON_ERROR)}.")
    began = time.perf_counter()
    paths = [Path(path) for path in files]
    for path in paths:
        check_file(path, any_suffix=read is not None)  # before anything is hashed
        if streaming:
            check_streamable(path)
    states = [file_state(path) for path in paths]
    skip = on_error == "skip"
    build = partial(
        _build,
        writer=partial(StreamedWriter, salt=salt) if streaming else ExampleWriter,
        paths=paths,
        states=states,
        encoder=encoder,
        wording=wording,
        read=read or read_items,
        workers=workers,
        skip=skip,
        progress=progress,
    )
    folder, hit = cached_folder(
        Path(cache_dir) if cache_dir else default_cache_dir(),
        _key(paths, encoder, skip, salt if streaming else None, any_suffix=read is not None),
        is_complete=partial(is_complete, name=FILE_NAME) if streaming else is_complete,
        build=build,
    )
    opened = partial(StreamedStore, encoder=encoder, states=states, salt=salt) if streaming else ExampleStore
    return opened(folder, [str(p) for p in paths], cache_hit=hit, seconds=time.perf_counter() - began)


def _build(
    folder: Path,
    *,
    writer: Callable[[Path], Any],
    paths: list[Path],
    states: list[tuple],
    encoder: Encoder,
    wording: Wording,
    read: Reader,
    workers: int,
    skip: bool,
    progress: Progress,
) -> None:
    parallel = workers > 1 and sum(size for size, _ in states) >= PARALLEL_BYTES
    tally = Tally(paths, wording)
    encoded = encode_files(paths, encoder, workers=workers if parallel else 0, skip=skip, read=read)
    # Closed here, and not when its memory is freed: that may be in a thread of the pool that it ends.
    with writer(folder) as output, closing(encoded) as results:
        for file, examples, error in results:
            for example in examples:
                if tally.keep(example, file):
                    output.append(
                        example.input_ids,
                        example.labels,
                        trained=example.trained,
                        file=file,
                        line=example.line,
                        part=example.part,
                        offset=example.offset,
                        size=example.size,
                    )
            progress("records", tally.counts["records"], 0)
            if error is not None:
                raise error
        for path, state in zip(paths, states, strict=True):
            if file_state(path) != state:
                raise DataError(
                    f"{path}: the file changed while it was read. Start again when it is complete."
                )
        tally.refuse_faulty_files()
        tally.refuse_nothing_left()
        output.finish(tally.report(), tally.dropped_at)


def _key(paths: list[Path], encoder: Encoder, skip: bool, streamed: bytes | None, *, any_suffix: bool) -> str:
    """SHA-256 over everything that decides the examples: contents, tokenizer, settings and our own code."""
    parts = {
        "cache": CACHE_VERSION,
        "code": _code_digest(),
        "libraries": [version("tokenizers"), version("pyarrow")],
        "files": [
            ("" if any_suffix else format_of(path), path.stat().st_size, file_digest(path)) for path in paths
        ],
        "skip": skip,
        "encoder": encoder.settings(),
        **({} if streamed is None else {"streamed": streamed.hex()}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _code_digest() -> str:
    """A hash of the source that turns records into tokens, so that no cache outlives a change of it."""
    here = Path(__file__).parent
    folders = [here, here / "readers", here / "formats", here.parent / "tagging", here.parent / "text"]
    apart = {"collate.py", "datamodule.py", "hub_data.py", "plan.py", "sampler.py"}
    digest = hashlib.sha256()
    for source in (file for folder in folders for file in sorted(folder.glob("*.py"))):
        if source.parent == here and source.name in apart:
            continue
        digest.update(source.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ChatEncoder:
    """Chat records in one of `CHAT_FORMATS`, tokenised as the model's own template renders them."""

    tokenizer: GlmTokenizer
    format: str
    train_on: str
    max_length: int | None
    truncation: str
    stop_token: str

    def __call__(self, value: dict[str, Any]) -> list[Encoded]:
        chat = encode_chat_packed(
            self.tokenizer,
            parse_chat(value, self.format),
            train_on=self.train_on,
            max_length=self.max_length,
            truncation=self.truncation,
            stop_token=self.stop_token,
        )
        labels = np.frombuffer(chat.labels, np.int32)
        trained = trained_tokens(labels)
        if trained == 0:
            return [Encoded(dropped="no token of it is trained")]
        ids = np.frombuffer(chat.input_ids, np.int32)
        return [Encoded(ids, labels, trained, chat.dropped_messages, chat.dropped_tokens, chat.cut)]

    def settings(self) -> dict[str, Any]:
        return {
            "task": "chat",
            "tokenizer": self.tokenizer.fingerprint,
            "format": self.format,
            "train_on": self.train_on,
            "max_length": self.max_length,
            "truncation": self.truncation,
            "stop_token": self.stop_token,
        }
