"""Folders that are made once and named by a hash of all that they depend on.

A folder is built under a temporary name and published by one rename, so that it is complete or absent. A lock
per key lets one process build while the others wait for its result; the kernel frees the lock of a killed
process, and what such a process left behind is swept away by the next. Where the file system has no locks,
two processes may build the same folder; then either one wins and both use it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from glm_train.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")


def default_cache_dir() -> Path:
    """`$GLM_TRAIN_CACHE`, else `~/.cache/glm-train`."""
    return Path(os.environ.get("GLM_TRAIN_CACHE") or Path.home() / ".cache" / "glm-train")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_folder(
    root: Path, key: str, *, is_complete: Callable[[Path], bool], build: Callable[[Path], None]
) -> tuple[Path, bool]:
    """The folder `root/key`, built by `build(empty_folder)` if it is not there; and whether it was there.

    A damaged folder (`is_complete` says no) is built again.

    Raises:
        DataError: the cache cannot be written.
    """
    target = root / key
    if is_complete(target):
        return target, True
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _lock(root, key, wait=True) as locked:
            if locked:
                _sweep(root, key)
            if is_complete(target):  # another process was building it
                return target, True
            return target, not _build(target, is_complete, build)
    except OSError as error:
        raise DataError(
            f"{root}: cannot write the prepared data: {error.strerror or error}."
            " Free some space, or name another folder with data.cache_dir or GLM_TRAIN_CACHE."
        ) from error


def cached_value(root: Path, key: str, make: Callable[[], Any], load: Callable[[dict[str, Any]], T]) -> T:
    """What `make` finds: a dataclass, kept as JSON in the folder `root/key`, and made of it again by `load`.

    Raises `DataError` as `cached_folder` does, and what `make` raises.
    """

    def read(folder: Path) -> T:
        return load(json.loads((folder / "labels.json").read_text(encoding="utf-8")))

    def is_complete(folder: Path) -> bool:
        try:
            read(folder)
        except (OSError, ValueError, TypeError, KeyError):
            return False
        return True

    def build(folder: Path) -> None:
        found = json.dumps(asdict(make()), ensure_ascii=False)
        (folder / "labels.json").write_text(found, encoding="utf-8")

    folder, _ = cached_folder(root, key, is_complete=is_complete, build=build)
    return read(folder)


def _build(target: Path, is_complete: Callable[[Path], bool], build: Callable[[Path], None]) -> bool:
    """Build and publish; False where another process published first."""
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        build(temporary)
        for entry in (*temporary.iterdir(), temporary):
            _sync(entry)
        if target.exists() and not is_complete(target):
            shutil.rmtree(target)
        try:
            temporary.rename(target)
        except OSError:
            if not is_complete(target):
                raise
            return False
        _sync(target.parent)
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(root: Path, own_key: str) -> None:
    """Remove what killed processes left behind. Whoever holds a key's lock owns its temporary folders."""
    for leftover in root.glob("*.tmp"):
        key = leftover.name.split(".")[0]
        if key == own_key:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        with _lock(root, key, wait=False) as locked:
            if locked:
                shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _lock(root: Path, key: str, *, wait: bool) -> Iterator[bool]:
    """Hold the key's lock; yields False where it is held elsewhere, or the file system has none."""
    with (root / f"{key}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except BlockingIOError:
            locked = False
            if wait:
                log.info("another process prepares the same data; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
                locked = True
        except OSError:
            locked = False
        yield locked


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
