"""What must hold on the disk: files that survive a power cut, and a full disk that is explained."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glm_train.checkpoint.safetensors_file import WrittenFile
from glm_train.errors import CheckpointError

# EFBIG: over the user's file size limit (ulimit -f). EDQUOT: over the user's quota.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable. A file system that cannot do that is taken as it is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> WrittenFile:
    """Write a new UTF-8 file and flush it to the disk. Raises OSError, FileExistsError included."""
    data = text.encode()
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(len(data), hashlib.sha256(data).hexdigest())


def require_room(folder: Path, needed: int, what: str) -> None:
    """Raise `CheckpointError` when fewer than `needed` bytes are free where `folder` lies."""
    free = _free(folder)
    if free < needed:
        raise CheckpointError(_no_room(folder, needed, what, free))


@contextmanager
def disk_errors(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Turn an OSError of writing `what` into `folder` to a `CheckpointError`, with sizes for a full disk.

    `needed`: the bytes of all of it; 0 where nobody knows.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            free = _free(folder) + _unfinished(folder)  # which is removed now
            raise CheckpointError(f"{_no_room(folder, needed, what, free)} ({error.strerror})") from error
        raise CheckpointError(
            f"{what} could not be written to {folder}: {error.strerror or error}. "
            "Nothing that was there before is lost; check the disk and the folder's permissions."
        ) from error


def _free(folder: Path) -> int:
    """Free bytes where `folder` is or would be made."""
    return shutil.disk_usage(
        next(place for place in (folder, *folder.absolute().parents) if place.exists())
    ).free


def _unfinished(folder: Path) -> int:
    """Bytes that the drafts in `folder` take, which end with the save that failed."""
    try:
        drafts = [file for draft in folder.glob(".tmp-*") for file in draft.iterdir()]
        return sum(file.stat().st_size for file in drafts)
    except OSError:  # somebody else's, or gone meanwhile
        return 0


def _no_room(folder: Path, needed: int, what: str, free: int) -> str:
    sizes = f"{what} needs {_bytes(needed)} in {folder}, where {_bytes(free)} are free"
    if needed == 0:
        sizes = f"no room for {what} in {folder}, where {_bytes(free)} are free"
    elif needed > free:
        sizes += f": {_bytes(needed - free)} are missing"
    return (
        f"{sizes}. Nothing that was there before is lost. Free some space, lift the quota or the file size limit, or "
        "choose another folder."
    )


def _bytes(number: int) -> str:
    return f"{number} bytes ({number / 2**30:.2f} GiB)"
