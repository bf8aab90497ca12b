"""Weights of a model folder, into a module and out of it.

Loading takes one tensor at a time from the memory-mapped file and casts it on the way, so the peak is the
model plus one tensor. All names and shapes are compared first: a folder that does not fit changes nothing.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from glm_train.checkpoint.disk import disk_errors, require_room, sync_folder, write_text
from glm_train.checkpoint.fit import Place, Slot, match
from glm_train.checkpoint.index import INDEX_NAME, SINGLE_NAME, TensorIndex, read_index
from glm_train.checkpoint.new_head import first_values, new_head
from glm_train.checkpoint.safetensors_file import Deferred, StoredTensor, stored_bytes, write_tensors
from glm_train.errors import CheckpointError

MAX_SHARD_BYTES = 5 * 1024**3
# What makes a folder "hold a model already", and the part of it that a save with overwrite=True replaces.
_HOLDS_A_MODEL = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_OURS = (SINGLE_NAME, "model-*-of-*.safetensors")
_TEMPORARY = ".tmp-"


def load_weights(
    module: nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> list[str]:
    """Fill every parameter and persistent buffer of `module` from a model folder.

    Parameters on the meta device are made on `device` in `dtype` (None: the widest floating dtype of the
    files). Parameters that have memory are filled where they are, in their own dtype: what refers to them
    stays valid. Names must agree both ways, except that a tied head may be absent or equal to the
    embedding, rotary frequency buffers are passed over, a head that the module lacks is not read, and a
    bare model's folder fits a causal LM with tied weights.

    Returns the names of a classification head that the folder lacks. They are new: random, from torch's global
    generator, where they lie on the meta device, and left as they are where they have memory.
    Raises `CheckpointError` listing what is missing, superfluous, or of another shape or kind.
    """
    index, place = read_index(folder), torch.device(device)
    slots, new = fitting_slots(module, index), new_head(module, index)
    dtype = dtype or _widest(slots)
    fill(module, slots, dtype, place)
    with torch.no_grad():
        for part in new:
            if part.target.is_meta:
                values = part.target if place.type == "meta" else first_values(module, part)
                _fill(module, part, values, dtype, place)
    return [name for part in new for name in part.names]


def fitting_slots(module: nn.Module, index: TensorIndex) -> list[Slot]:
    """Which stored tensor fills which of the module's, where all of them fit (`CheckpointError` otherwise), as in
    `load_weights`. Of the data, only what must agree is read: tied tensors stored twice, and the bias of an original
    classifier, which must be zero where the head has none."""
    slots = match(module, _without_zero_bias(module, index))
    for slot in slots:
        for copy in slot.copies:
            _require_equal(index, slot, copy)
    return slots


def fill(module: nn.Module, slots: list[Slot], dtype: torch.dtype, device: str | torch.device) -> None:
    """Copy the stored tensors of `slots` into the module; those on the meta device are made, in `dtype`."""
    by_file: dict[Path, list[Slot]] = {}
    for slot in slots:
        by_file.setdefault(slot.stored.file, []).append(slot)
    with torch.no_grad():
        for file, members in sorted(by_file.items()):
            for slot, tensor in _read(file, members):
                _fill(module, slot, tensor, dtype, torch.device(device))


def save_weights(
    module_or_state_dict: nn.Module | Mapping[str, Tensor | Deferred],
    folder: str | Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write `model.safetensors`, or shards of at most `max_shard_bytes` and their index, into `folder`.

    A tensor with two names (a tied head) is written once, under its first. Files are written under
    temporary names and renamed, the index last: a save that is cut off leaves no folder that loads half a
    model. Raises `CheckpointError` when the folder holds weights already (`overwrite=True` replaces those
    of this naming), or when the disk is full or fails, with the bytes needed and free.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, found {max_shard_bytes}")
    folder = Path(folder)
    state: Mapping[str, Tensor | Deferred] = (
        module_or_state_dict.state_dict()
        if isinstance(module_or_state_dict, nn.Module)
        else module_or_state_dict
    )
    tensors = _once_each(state)
    files = _shards(tensors, max_shard_bytes)
    needed = sum(stored_bytes(part) for part in files.values())
    with disk_errors(folder, needed, "the model"):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_other_weights(folder, overwrite)
        for leftover in folder.glob(f"{_TEMPORARY}*"):
            leftover.unlink()
        require_room(folder, needed, "the model")
        try:
            for name, part in files.items():
                write_tensors(folder / (_TEMPORARY + name), part, {"format": "pt"})
            if len(files) > 1:
                write_text(folder / (_TEMPORARY + INDEX_NAME), _index_text(files))
            _publish(folder, list(files))
        finally:
            for leftover in folder.glob(f"{_TEMPORARY}*"):
                leftover.unlink()


def _refuse_other_weights(folder: Path, overwrite: bool) -> None:
    """Raise `CheckpointError` when `folder` holds a model that the caller did not say to replace."""
    found = sorted(path.name for pattern in _HOLDS_A_MODEL for path in folder.glob(pattern))
    held = [name for name in found if not name.startswith(_TEMPORARY)]
    if held and not overwrite:
        raise CheckpointError(
            f"{folder}: already holds a model ({', '.join(held[:3])}). Choose another folder, or replace "
            "it on purpose with overwrite=True."
        )


def _widest(slots: list[Slot]) -> torch.dtype:
    """The floating dtype that holds all stored ones without loss: for a config that names none."""
    floating = {slot.stored.dtype for slot in slots if slot.stored.dtype.is_floating_point}
    return functools.reduce(torch.promote_types, floating) if floating else torch.float32


def _read(file: Path, slots: list[Slot]) -> Iterator[tuple[Slot, Tensor]]:
    """Each slot with a view of its data; a page is read when the view is copied."""
    try:
        with safe_open(file, framework="pt") as handle:
            for slot in slots:
                yield slot, stored_data(handle, slot.stored)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None


def _fill(module: nn.Module, slot: Place, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Copy `tensor` into the slot; where that has no memory, make it, once for all names that share it."""
    if slot.target.device.type != "meta":
        slot.target.copy_(tensor)
        return
    kind = dtype if slot.target.dtype.is_floating_point else slot.target.dtype
    made = torch.empty(tensor.shape, dtype=kind, device=device)
    made.copy_(tensor)
    if isinstance(slot.target, nn.Parameter):
        made = nn.Parameter(made, requires_grad=slot.target.requires_grad)
    for name in slot.names:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, made)


def stored_data(handle: Any, stored: StoredTensor) -> Tensor:
    """The tensor, or the rows of it that are meant: a view of the mapped file that `safe_open` gave as `handle`."""
    if stored.rows is None:
        return handle.get_tensor(stored.name)
    start, stop = stored.rows
    return handle.get_slice(stored.name)[start:stop]


def read_tensor(stored: StoredTensor) -> Tensor:
    """The same as a tensor of its own lifetime; its pages are read where they are used. Raises `CheckpointError`."""
    try:
        with safe_open(stored.file, framework="pt") as handle:
            return stored_data(handle, stored)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{stored.file}: cannot be read: {error}") from None


def _require_equal(index: TensorIndex, slot: Slot, copy: str) -> None:
    """A tied tensor stored twice must be the same twice, or one of the two would be lost unseen."""
    with torch.no_grad():
        first, second = (read_tensor(index.tensors[name]) for name in (slot.source, copy))
        if first.shape != second.shape or not torch.equal(first, second):
            raise CheckpointError(
                f"{index.folder}: config.json ties {slot.source} and {copy}, but the folder holds "
                "different values "
                'for them. Set "tie_word_embeddings": false in config.json to keep both.'
            )


def _without_zero_bias(module: nn.Module, index: TensorIndex) -> TensorIndex:
    """The index without a `score.bias` of zeros, where the module's head has no bias."""
    wanted, stored = module.state_dict(keep_vars=True), index.tensors.get("score.bias")
    if stored is None or "score.bias" in wanted or "score.weight" not in wanted:
        return index
    _require_zero_bias(index.folder, stored)
    return replace(index, tensors={k: v for k, v in index.tensors.items() if k != "score.bias"})


def _require_zero_bias(folder: Path, stored: StoredTensor) -> None:
    """Raise `CheckpointError` unless a sequence classifier's bias, which Hugging Face's head has no place for, is
    zero."""
    bias = read_tensor(stored).float()
    if bias.count_nonzero() > 0:
        raise CheckpointError(
            f"{folder}: the classifier has a bias ({stored.name}, up to {bias.abs().max():.3g}), as the original's "
            "code makes one; the head of GlmForSequenceClassification has none, so its scores would be others. "
            "Train a head again, from the language model."
        )


def _once_each(state: Mapping[str, Tensor | Deferred]) -> dict[str, Tensor | Deferred]:
    """The tensors without second names for the same memory."""
    seen: set[tuple[object, ...]] = set()
    kept: dict[str, Tensor | Deferred] = {}
    for name, tensor in state.items():
        if isinstance(tensor, Deferred) or tensor.numel() == 0 or tensor.device.type == "meta":
            kept[name] = tensor
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place not in seen:
            kept[name] = tensor
            seen.add(place)
    return kept


def _shards(
    tensors: Mapping[str, Tensor | Deferred], max_shard_bytes: int
) -> dict[str, dict[str, Tensor | Deferred]]:
    """File name -> its tensors: in the given order, a new file where the next tensor would pass the limit."""
    parts: list[dict[str, Tensor | Deferred]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > max_shard_bytes:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    if len(parts) == 1:
        return {SINGLE_NAME: parts[0]}
    return {f"model-{n:05d}-of-{len(parts):05d}.safetensors": part for n, part in enumerate(parts, start=1)}


def _index_text(files: Mapping[str, Mapping[str, Tensor | Deferred]]) -> str:
    tensors = [tensor for part in files.values() for tensor in part.values()]
    metadata = {
        "total_parameters": sum(tensor.numel() for tensor in tensors),
        "total_size": sum(tensor.nbytes for tensor in tensors),
    }
    weight_map = {name: file for file, part in files.items() for name in part}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _publish(folder: Path, names: list[str]) -> None:
    """Give the finished files their names. What leads a reader to old weights goes first, the index comes
    last: cut off at any point, the folder loads whole or is refused as incomplete."""
    for path in [folder / INDEX_NAME, *(path for pattern in _OURS for path in folder.glob(pattern))]:
        path.unlink(missing_ok=True)
    for name in [*names, *([INDEX_NAME] if len(names) > 1 else [])]:
        (folder / (_TEMPORARY + name)).rename(folder / name)
    sync_folder(folder)
