"""Saved run states: each is complete or absent, and is believed only after it has been checked.

    checkpoints/
      step-00000040/
        model.safetensors  optimizer.safetensors  rng.safetensors     one file for each group of tensors
        state.json                                                    everything that is not a tensor
        manifest.json                                                 written last: their sizes and hashes

A state is written under `.tmp-<name>-<pid>`, flushed to the disk, and renamed: under its own name it is
whole. It is removed the other way round: renamed to `.tmp-...` first. A process killed at any point
therefore leaves whole states and `.tmp-` folders, which the next save or look-up clears away. Replacing a
state of the same name sets the old one aside as `.old-<name>` and, should the process die before the new
one is in place, puts it back.

A lock on the checkpoints folder makes sure that only one process at a time does any of this. There is no
pickle anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from glm_train.checkpoint.disk import disk_errors, require_room, sync_folder, write_text
from glm_train.checkpoint.manifest import is_complete, verify, write_manifest
from glm_train.checkpoint.safetensors_file import read_header, stored_bytes, strict_json, write_tensors
from glm_train.errors import CheckpointError

STATE_NAME = "state.json"
SHARDS_NAME = "shards.json"  # only in a state of several processes: see `sharded.py`
_SUFFIX = ".safetensors"
_TEMPORARY, _OLD = ".tmp-", ".old-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_=-]*", re.ASCII)


def save_state(
    directory: str | Path, name: str, *, tensors: Mapping[str, Mapping[str, Tensor]], meta: Mapping[str, Any]
) -> Path:
    """Save a run's state as `directory/name` and return that path, when it is safe on the disk.

    `tensors` maps a group (a file) to its tensors by name, of any dtype, device, stride or shape. `meta` is
    plain JSON: what `json` writes and reads back unchanged, NaN and infinity excluded. A state of the same
    name is replaced once the new one is whole.

    Raises `CheckpointError` when the disk is full (bytes needed and free; checked first) or fails, or when
    another process is saving here; all earlier states are then as they were.
    """
    directory = Path(directory)
    for part in (name, *tensors):
        if not _NAME.fullmatch(part):
            raise ValueError(f"{part!r}: use letters, digits, '-', '_' and '=' in names of states and groups")
    text = plain_json(meta)
    needed = len(text.encode()) + sum(stored_bytes(group) for group in tensors.values())
    with disk_errors(directory, needed, f"the run state {name}"):
        directory.mkdir(parents=True, exist_ok=True)
        with only_writer(directory):
            clear_leftovers(directory)
            require_room(directory, needed, f"the run state {name}")
            draft = directory / draft_of(name)
            try:
                _write(draft, tensors, text)
                publish(draft, directory / name)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
    return directory / name


def load_state(path: str | Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors (on the CPU, in memory of their own) and the meta that were saved, by one process or by several.

    Every file is checked against the manifest before any is used. Raises `CheckpointError` naming the file.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such saved state")
    files = verify(path)
    meta = strict_json((path / STATE_NAME).read_text(encoding="utf-8"))
    if SHARDS_NAME in files:
        from glm_train.checkpoint.sharded import open_state

        shared, _ = open_state(path, checked=True)
        return {g: {n: saved.whole() for n, saved in named.items()} for g, named in shared.items()}, meta
    groups = {name.removesuffix(_SUFFIX): path / name for name in files if name.endswith(_SUFFIX)}
    return {group: _read_group(file) for group, file in groups.items()}, meta


def newest_valid(directory: str | Path) -> tuple[Path | None, list[str]]:
    """The state of the highest step whose every byte is as it was written, and why later ones are not taken.

    The step is the number at the end of the name (`step-00000040`), else `step` in the state's meta.
    Leftovers of killed processes are cleared away first. (None, reasons) where no state is valid or none is
    there.
    """
    directory = Path(directory)
    if not directory.is_dir():
        return None, []
    # A folder that may not be written to can still be read.
    with _try_lock(directory) as locked, suppress(OSError):
        if locked:
            clear_leftovers(directory)
    reasons = []
    for path in reversed(_by_step(directory)):
        try:
            verify(path)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            return path, reasons
    return None, reasons


def prune(directory: str | Path, keep: int) -> list[Path]:
    """Remove the oldest whole states but for the newest `keep`; return what was removed.

    Counted from the newest state that was read and found valid; while there is none, nothing is removed.
    Damaged states are left for a person to look at and do not count.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, found {keep}")
    directory = Path(directory)
    newest, _ = newest_valid(directory)
    if newest is None:
        return []
    with disk_errors(directory, 0, "the list of run states"), only_writer(directory):
        states = _by_step(directory)
        older = [path for path in states[: states.index(newest)] if is_complete(path)]
        removed = older[: max(0, len(older) - (keep - 1))]
        for path in removed:
            _remove(path)
    return removed


def draft_of(name: str) -> str:
    """What the folder of a state is called until it is whole, in this process."""
    return f"{_TEMPORARY}{name}-{os.getpid()}"


def plain_json(meta: Mapping[str, Any]) -> str:
    text = json.dumps(dict(meta), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    if json.loads(text) != meta:
        raise TypeError(
            "meta must be plain JSON: tuples and keys that are no strings do not come back as they were"
        )
    return text


def _write(draft: Path, tensors: Mapping[str, Mapping[str, Tensor]], text: str) -> None:
    draft.mkdir()
    files = {
        group + _SUFFIX: write_tensors(draft / (group + _SUFFIX), part) for group, part in tensors.items()
    }
    files[STATE_NAME] = write_text(draft / STATE_NAME, text)
    write_manifest(draft, files)
    sync_folder(draft)


def publish(draft: Path, path: Path) -> None:
    """Give a finished draft its name, with an older state of that name set aside until it has it."""
    old = path.with_name(_OLD + path.name)
    if path.exists():
        path.rename(old)
    try:
        draft.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    if old.exists():
        _remove(old)


def _remove(path: Path) -> None:
    """Take the name away first: a kill halfway through leaves no half state under a valid name."""
    doomed = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    path.rename(doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed)


def clear_leftovers(directory: Path, name: str | None = None) -> None:
    """What a killed process left, of the folder `name` alone where others' things lie beside it. Called under the lock,
    so that no living one is at work on it."""
    for old in directory.glob(f"{_OLD}{name or '*'}"):
        path = old.with_name(old.name.removeprefix(_OLD))
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)
    for draft in directory.glob(f"{_TEMPORARY}{name + '-' if name else ''}*"):
        shutil.rmtree(draft)


def _by_step(directory: Path) -> list[Path]:
    """The states of a folder, oldest first."""
    states = [
        path
        for path in directory.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]
    return sorted(states, key=lambda path: (_step(path), path.name))


def _step(path: Path) -> int:
    number = re.search(r"(\d+)$", path.name, re.ASCII)
    if number:
        return int(number[1])
    try:
        step = strict_json((path / STATE_NAME).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        return -1
    return step if type(step) is int else -1


def _read_group(file: Path) -> dict[str, Tensor]:
    """Copies, not views of the mapped file: pruning may delete it while the run goes on."""
    names = read_header(file)
    with safe_open(file, framework="pt") as handle:
        return {name: handle.get_tensor(name).clone() for name in names}


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    with _try_lock(directory, where_impossible=True) as locked:
        if not locked:
            raise CheckpointError(
                f"{directory}: another process is saving here. Two runs cannot share a folder of "
                "checkpoints; give one of them another output_dir."
            )
        yield


@contextmanager
def _try_lock(directory: Path, where_impossible: bool = False) -> Iterator[bool]:
    """Whether this process now holds the folder's lock; it ends with the process, however that ends.

    Some network file systems have no locks; there `where_impossible` is the answer.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except OSError as error:
        locked = error.errno not in (errno.EWOULDBLOCK, errno.EACCES) and where_impossible
    try:
        yield locked
    finally:
        # Closing alone would not do: a data worker forked meanwhile has a copy of the handle.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
