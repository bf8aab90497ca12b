"""Weights that stay in the files: parameters that are views of mapped safetensors, until somebody copies them.

Processes of one machine that map the same files share the memory, which the system frees as it likes. So a model that
is about to be shared out is never whole in any process's own memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from glm_train.checkpoint.fit import Place, Slot
from glm_train.checkpoint.index import read_index
from glm_train.checkpoint.new_head import first_values, new_head
from glm_train.checkpoint.weights import fitting_slots, read_tensor


@torch.no_grad()
def map_weights(module: nn.Module, folder: str | Path, dtype: torch.dtype | None) -> None:
    """Give every parameter of `module`, which is on the meta device, its values: what `load_weights` would give it.

    `dtype` other than the files': those tensors are copied. None: each keeps its files' dtype, and is marked as
    `mapped`, for `shard` to change it layer by layer. A head that the folder lacks gets the first values that
    `load_weights` gives it, in `dtype` or fp32. Raises `CheckpointError` as that does.
    """
    index = read_index(folder)
    slots, new = fitting_slots(module, index), new_head(module, index)
    map_slots(module, slots, dtype)
    for part in new:
        values = first_values(module, part)
        _assign(module, part, values if dtype is None else values.to(dtype))


@torch.no_grad()
def map_slots(module: nn.Module, slots: Iterable[Slot], dtype: torch.dtype | None = None) -> None:
    """The same for chosen tensors: what no slot fills stays on the meta device."""
    for slot in slots:
        tensor = read_tensor(slot.stored)
        _assign(module, slot, tensor if dtype is None else tensor.to(dtype))


def _assign(module: nn.Module, place: Place, values: Tensor) -> None:
    made = nn.Parameter(values, requires_grad=place.target.requires_grad)
    made.mapped = True  # type: ignore[attr-defined]
    for name in place.names:
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, made)
