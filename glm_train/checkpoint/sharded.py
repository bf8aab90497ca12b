"""Run states that several processes save together, each what it has, and that any number of processes reads.

    checkpoints/
      step-00000040/
        model-00000.safetensors  model-00001.safetensors    the rows of each tensor that processes 0 and 1 have
        optimizer-00000...       optimizer-00001...
        random-00000...          random-00001...            each process's random state
        shards.json                                         which rows of which tensor lie in which file
        state.json               manifest.json              as in `resume.py`, written by process 0, the last one last

Nobody sees the folder under its name before all have written: process 0 renames it when it has everybody's word. The
folder must be one that all processes see. A state of one process is as `resume.py` describes; both are read alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from glm_train import dist
from glm_train.checkpoint.disk import disk_errors, require_room, sync_folder, write_text
from glm_train.checkpoint.manifest import verify, write_manifest
from glm_train.checkpoint.resume import (
    SHARDS_NAME,
    STATE_NAME,
    clear_leftovers,
    draft_of,
    only_writer,
    plain_json,
    publish,
    save_state,
)
from glm_train.checkpoint.safetensors_file import (
    WrittenFile,
    read_header,
    stored_bytes,
    strict_json,
    write_tensors,
)
from glm_train.checkpoint.slices import Piece, SavedTensor, check_cover, is_first_copy, own_rows
from glm_train.errors import CheckpointError

T = TypeVar("T")
Groups = Mapping[str, Mapping[str, Tensor]]
_SUFFIX = ".safetensors"


def prepare_save(
    directory: str | Path,
    name: str,
    *,
    tensors: Groups,
    own: Groups,
    meta: Mapping[str, Any],
    copied: bool = False,
) -> Callable[[], Path]:
    """Take what a state of all processes is made of; every process calls the result, which saves it as
    `directory/name` and returns when it is on the disk.

    `tensors` by group and name may be shared out by rows (DTensors); what is not, is alike everywhere and saved once.
    `own` are each process's alone. `copied`: into memory of the CPU, so that they may change before they are saved.
    Alone, a process saves as `save_state` does. Saving raises `CheckpointError`, on all processes, where one of them
    cannot; earlier states are then as they were.
    """
    directory, text = Path(directory), plain_json(meta)
    if dist.world_size() == 1:
        plain = {g: {n: own_rows(t)[0] for n, t in named.items()} for g, named in {**tensors, **own}.items()}
        whole = _copies(plain) if copied else plain
        return lambda: save_state(directory, name, tensors=whole, meta=json.loads(text))
    mine, places = _my_part(tensors, own)
    part = _copies(mine) if copied else mine
    return lambda: _save_parts(directory, name, part, places, text)


def _save_parts(
    directory: Path, name: str, mine: dict[str, dict[str, Tensor]], places: dict[str, Any], text: str
) -> Path:
    sizes = dist.gather_objects(sum(stored_bytes(part) for part in mine.values()))
    needed = sum(sizes) + len(text.encode())
    draft = directory / dist.from_rank_0(draft_of(name))
    with ExitStack() as stack:
        _everyone(lambda: _open_draft(stack, directory, draft, needed) if dist.rank() == 0 else None)
        stack.callback(_remove_draft, draft)
        parts = _everyone(lambda: (_write_part(draft, mine, needed), places))
        _everyone(lambda: _finish(draft, directory / name, parts, text, needed) if dist.rank() == 0 else None)
    return directory / name


def _copies(groups: Groups) -> dict[str, dict[str, Tensor]]:
    return {
        group: {name: tensor.detach().to("cpu", copy=True) for name, tensor in named.items()}
        for group, named in groups.items()
    }


def open_state(
    path: str | Path, *, checked: bool = False
) -> tuple[dict[str, dict[str, SavedTensor]], dict[str, Any]]:
    """The tensors of a state of either kind, to be read by rows, and its meta.

    Every file is compared with the manifest first, unless the caller has it `checked`. Raises `CheckpointError`.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such saved state")
    if not checked:
        verify(path)
    meta = strict_json((path / STATE_NAME).read_text(encoding="utf-8"))
    if (path / SHARDS_NAME).exists():
        return _read_shards(path), meta
    groups = {}
    for file in sorted(path.glob(f"*{_SUFFIX}")):
        header = read_header(file)
        groups[file.name.removesuffix(_SUFFIX)] = {
            name: SavedTensor(name, stored.dtype, stored.shape, (Piece(file, 0, (*stored.shape, 1)[0]),))
            for name, stored in header.items()
        }
    return groups, meta


def _my_part(tensors: Groups, own: Groups) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """This process's files with their tensors, and where the rows of each belong."""
    rank = dist.rank()
    files: dict[str, dict[str, Tensor]] = {}
    places: dict[str, Any] = {}
    for group, named in tensors.items():
        file = f"{group}-{rank:05d}{_SUFFIX}"
        for name, tensor in named.items():
            part, start, stop = own_rows(tensor)
            if is_first_copy(tensor) and (stop > start or start == 0):
                files.setdefault(file, {})[name] = part
                entry = {"shape": list(tensor.shape), "file": file, "rows": [start, stop]}
                places.setdefault(group, {})[name] = entry
    for group, named in own.items():
        file = f"{group}-{rank:05d}{_SUFFIX}"
        files[file] = {f"{rank}:{name}": tensor for name, tensor in named.items()}
        places[group] = {
            name: {"shape": list(t.shape), "file": file, "rows": [0, (*t.shape, 1)[0]]}
            for name, t in files[file].items()
        }
    return files, places


def _open_draft(stack: ExitStack, directory: Path, draft: Path, needed: int) -> None:
    with disk_errors(directory, needed, "the run state"):
        directory.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_writer(directory))
        clear_leftovers(directory)
        require_room(directory, needed, "the run state")
        draft.mkdir()


def _remove_draft(draft: Path) -> None:
    """What is left of a save that failed; one that did not has another name by now."""
    import shutil

    if dist.rank() == 0:
        shutil.rmtree(draft, ignore_errors=True)


def _write_part(draft: Path, mine: dict[str, dict[str, Tensor]], needed: int) -> dict[str, WrittenFile]:
    if not draft.is_dir():
        raise CheckpointError(
            f"{draft.parent}: process {dist.rank()} does not see the folder that process 0 made. output_dir must be on "
            "a file system that all machines share"
        )
    with disk_errors(draft.parent, needed, "the run state"):
        return {file: write_tensors(draft / file, part) for file, part in mine.items()}


def _finish(draft: Path, path: Path, parts: list[Any], text: str, needed: int) -> None:
    files: dict[str, WrittenFile] = {}
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for written, places in parts:
        files |= written
        for group, named in places.items():
            for name, entry in named.items():
                known = groups.setdefault(group, {}).setdefault(name, {"shape": entry["shape"], "pieces": []})
                known["pieces"].append([entry["file"], *entry["rows"]])
    shards = json.dumps({"groups": groups, "processes": len(parts)}, indent=1, sort_keys=True) + "\n"
    with disk_errors(path.parent, needed, "the run state"):
        files[SHARDS_NAME] = write_text(draft / SHARDS_NAME, shards)
        files[STATE_NAME] = write_text(draft / STATE_NAME, text)
        write_manifest(draft, files)
        sync_folder(draft)
        publish(draft, path)


def _everyone(work: Callable[[], T]) -> list[T]:
    """Every process's result, once all have done their part; where one fails, all raise what it says."""
    failure: CheckpointError | None = None
    result: Any = None
    try:
        result = work()
    except CheckpointError as error:
        failure = error
    answers = dist.gather_objects((result, str(failure) if failure else None))
    failures = [said for _, said in answers if said is not None]
    if failures:
        raise failure or CheckpointError(failures[0])
    return [found for found, _ in answers]


def _read_shards(path: Path) -> dict[str, dict[str, SavedTensor]]:
    try:
        content = strict_json((path / SHARDS_NAME).read_text(encoding="utf-8"))
        headers: dict[str, Any] = {}
        groups: dict[str, dict[str, SavedTensor]] = {}
        for group, named in content["groups"].items():
            for name, entry in named.items():
                pieces = tuple(Piece(path / file, start, stop) for file, start, stop in entry["pieces"])
                for piece in pieces:
                    if piece.file.parent != path:
                        raise ValueError(f"{piece.file} is not in the folder")
                    headers.setdefault(piece.file.name, read_header(piece.file))
                shape = tuple(entry["shape"])
                check_cover(name, shape, pieces, path)
                dtype: torch.dtype = headers[pieces[0].file.name][name].dtype
                groups.setdefault(group, {})[name] = SavedTensor(name, dtype, shape, pieces)
        return groups
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path / SHARDS_NAME}: cannot be read: {error}") from None
