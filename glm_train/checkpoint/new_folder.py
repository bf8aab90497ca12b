"""A folder that is there whole or not at all: written under another name and renamed when it is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glm_train.checkpoint.disk import disk_errors, sync_folder
from glm_train.checkpoint.resume import clear_leftovers, draft_of, only_writer, publish
from glm_train.errors import CheckpointError, ConfigError


def free_place(out: Path, source: Path) -> Path:
    """The resolved path of a folder that may be made: a name that is free, or an empty folder.

    Raises `ConfigError` where something lies there, and for `source` itself.
    """
    try:
        place = out.expanduser().resolve()
        taken = place.exists() and (not place.is_dir() or any(place.iterdir()))
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a name too long or with a NUL; no access; no such user
        raise ConfigError(f"{str(out)[:80]!r} cannot be the name of a new folder: {error}") from None
    if place == source.resolve():
        raise ConfigError(
            f"{out}: source and target are the same folder; give the new model a folder of its own"
        )
    if place == Path.cwd():
        raise ConfigError(f"{out}: the current folder; give the new model a folder of its own")
    if taken:
        kind = "a folder that is not empty" if place.is_dir() else "a file"
        raise ConfigError(f"{out}: {kind}. Give a new folder, or an empty one; nothing is overwritten")
    return place


@contextmanager
def published(place: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `place` where all goes well and is removed where it does not.

    Raises `ConfigError` where another work on the same place is under way or was killed; `CheckpointError` where
    the disk refuses.
    """
    part = place.with_name(f"{place.name}.part")
    with disk_errors(place, 0, "the model"):
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.mkdir()
        except FileExistsError:
            raise ConfigError(
                f"{part} is there: left by a command that was killed, or the work of one that runs now. If none does, "
                "delete it."
            ) from None
    try:
        yield part
        with disk_errors(place, 0, "the model"):
            part.rename(place)
            sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def replaced(place: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of what lies at `place` when the block has ended well.

    A process killed at any point leaves the folder there was, or the new one, or none, and leftovers that the next call
    or `clear_leftovers` removes. Raises `CheckpointError` where the disk refuses, or another process is at it.
    """
    with disk_errors(place, 0, "the result"):
        place.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(place.parent):
            clear_leftovers(place.parent, place.name)
            draft = place.with_name(draft_of(place.name))
            draft.mkdir()
            try:
                yield draft
                publish(draft, place)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise


def sweep(directory: Path, name: str | None = None) -> None:
    """Remove what killed processes left where states are published, or of the one folder `name`, unless one is at work
    there."""
    if directory.is_dir():
        with suppress(CheckpointError, OSError), only_writer(directory):
            clear_leftovers(directory, name)
