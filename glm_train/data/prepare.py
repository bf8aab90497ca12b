"""Data files become a store of tokenised examples: once, before any training process exists."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from glm_train.data.cache import cached_folder, default_cache_dir, file_digest
from glm_train.data.chat_formats import CHAT_FORMATS, detect_chat_format
from glm_train.data.encode import Encoded, Encoder, encode_files
from glm_train.data.records import read_records
from glm_train.data.store import ExampleStore, ExampleWriter, PrepareReport, is_complete, trained_tokens
from glm_train.errors import ConfigError, DataError, nearest
from glm_train.text.chat import encode_chat
from glm_train.text.tokenizer import GlmTokenizer

CACHE_VERSION = 1
PARALLEL_BYTES = 8 * 1024 * 1024  # below this, starting processes takes longer than they save
SHOWN_PLACES = 3


def prepare_chat(
    files: Sequence[str | Path],
    tokenizer: GlmTokenizer,
    *,
    format: str = "auto",
    train_on: str = "assistant",
    max_length: int | None = None,
    truncation: str = "oldest_turns",
    cache_dir: str | Path | None = None,
    workers: int = 0,
) -> ExampleStore:
    """Chat records as tokenised examples, from the cache if they were prepared before.

    Args:
        files: data files, in the order in which their examples are to stand.
        format: a name in `CHAT_FORMATS`, or "auto" to recognise each record's.
        train_on, max_length, truncation: as for `text.chat.encode_chat`.
        cache_dir: where prepared data is kept; default `$GLM_TRAIN_CACHE`, else `~/.cache/glm-train`.
        workers: processes that tokenise large files; 0 and 1 mean this process. The result is the same.

    Examples longer than `max_length` that cannot be shortened, and examples without a trained token, are left
    out and counted in the store's report.

    Raises:
        ConfigError: an unknown format.
        DataError: a file or record cannot be used (the first one, with file and line), or no example is left.
    """
    if format != "auto" and format not in CHAT_FORMATS:
        known = ("auto", *CHAT_FORMATS)
        raise ConfigError(
            f"data.format={format!r} is unknown. Use one of: {', '.join(known)}.{nearest(format, known)}"
        )
    encoder = ChatEncoder(tokenizer, format, train_on, max_length, truncation)
    return prepare(files, encoder, cache_dir=cache_dir, workers=workers)


def prepare(
    files: Sequence[str | Path], encoder: Encoder, *, cache_dir: str | Path | None = None, workers: int = 0
) -> ExampleStore:
    """The examples that `encoder` makes of the records of `files`, in file order. See `prepare_chat`."""
    if not files:
        raise DataError("no data file is named. Set data.train.")
    began = time.perf_counter()
    paths = [Path(path) for path in files]
    for path in paths:
        read_records(path)  # its own checks of the file, before anything is hashed
    states = [_state(path) for path in paths]
    key = _key(paths, encoder)
    build = partial(_build, paths=paths, states=states, encoder=encoder, workers=workers)
    folder, hit = cached_folder(
        Path(cache_dir) if cache_dir else default_cache_dir(), key, is_complete=is_complete, build=build
    )
    return ExampleStore(folder, [str(p) for p in paths], cache_hit=hit, seconds=time.perf_counter() - began)


def _build(folder: Path, *, paths: list[Path], states: list[tuple], encoder: Encoder, workers: int) -> None:
    parallel = workers > 1 and sum(size for size, _ in states) >= PARALLEL_BYTES
    tally = _Tally()
    with ExampleWriter(folder) as writer:
        for file, examples, error in encode_files(paths, encoder, workers=workers if parallel else 0):
            for example in examples:
                if tally.keep(example, file):
                    writer.append(example.input_ids, example.labels, file=file, line=example.line)
            if error is not None:
                raise error
        for path, state in zip(paths, states, strict=True):
            if _state(path) != state:
                raise DataError(
                    f"{path}: the file changed while it was read. Start again when it is complete."
                )
        tally.refuse_nothing_left(paths)
        writer.finish(tally.report(), tally.dropped_at)


def _state(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _key(paths: list[Path], encoder: Encoder) -> str:
    """SHA-256 over everything that decides the examples: contents, tokenizer, settings and our own code."""
    parts = {
        "cache": CACHE_VERSION,
        "code": _code_digest(),
        "tokenizers": version("tokenizers"),
        "files": [(path.stat().st_size, file_digest(path)) for path in paths],
        "encoder": encoder.settings(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _code_digest() -> str:
    """A hash of the source that turns records into tokens, so that no cache outlives a change of it."""
    here = Path(__file__).parent
    own = [here / f"{name}.py" for name in ("records", "chat_formats", "encode", "prepare", "store")]
    digest = hashlib.sha256()
    for source in [*own, *sorted((here.parent / "text").glob("*.py"))]:
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

    def __call__(self, value: dict[str, Any]) -> Encoded:
        name = detect_chat_format(value) if self.format == "auto" else self.format
        chat = encode_chat(
            self.tokenizer,
            CHAT_FORMATS[name](value),
            train_on=self.train_on,
            max_length=self.max_length,
            truncation=self.truncation,
        )
        labels = np.asarray(chat.labels, np.int32)
        if trained_tokens(labels) == 0:
            return Encoded(dropped="no token of it is trained")
        return Encoded(np.asarray(chat.input_ids, np.int32), labels, chat.dropped_messages, chat.cut)

    def settings(self) -> dict[str, Any]:
        return {
            "task": "chat",
            "tokenizer": self.tokenizer.fingerprint,
            "format": self.format,
            "train_on": self.train_on,
            "max_length": self.max_length,
            "truncation": self.truncation,
        }


class _Tally:
    """Counts what becomes of the records."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.longest = 0
        self.dropped: Counter[str] = Counter()
        self.dropped_at: dict[str, list[tuple[int, int]]] = {}

    def keep(self, example: Encoded, file: int) -> bool:
        """Count one record; whether it is an example."""
        self.counts["records"] += 1
        if example.dropped:
            self.dropped[example.dropped] += 1
            places = self.dropped_at.setdefault(example.dropped, [])
            if len(places) < SHOWN_PLACES:
                places.append((file, example.line))
            return False
        self.longest = max(self.longest, len(example.input_ids))
        self.counts.update(
            examples=1,
            tokens=len(example.input_ids),
            trained_tokens=trained_tokens(example.labels),
            shortened=int(example.dropped_messages > 0),
            dropped_messages=example.dropped_messages,
            cut=int(example.cut),
        )
        return True

    def refuse_nothing_left(self, paths: list[Path]) -> None:
        if self.counts["examples"]:
            return
        reasons = [
            f"{count} {reason} (first: {paths[file]}:{line})"
            for reason, count in self.dropped.items()
            for file, line in self.dropped_at[reason][:1]
        ]
        raise DataError(
            f"no example is left of {self.counts['records']} records: {'; '.join(reasons)}."
            " Raise data.max_length, or change data.train_on or the data."
        )

    def report(self) -> PrepareReport:
        return PrepareReport(
            records=self.counts["records"],
            examples=self.counts["examples"],
            tokens=self.counts["tokens"],
            trained_tokens=self.counts["trained_tokens"],
            longest=self.longest,
            dropped=dict(self.dropped),
            shortened=self.counts["shortened"],
            dropped_messages=self.counts["dropped_messages"],
            cut=self.counts["cut"],
        )
