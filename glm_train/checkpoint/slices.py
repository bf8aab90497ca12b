"""Saved tensors that are read by rows, whichever files their rows lie in, and the rows that a process has of a tensor.

R rows: the first dimension. A tensor without dimensions is one row.

    saved by 2 processes, read by 3 (R = 6)

    model-00000.safetensors   0 1 2            process 0   0 1
    model-00001.safetensors         3 4 5      process 1       2 3    from both files
                                               process 2           4 5
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glm_train.errors import CheckpointError


@dataclass(frozen=True)
class Piece:
    """Rows `start` up to, not including, `stop` of a tensor, as a tensor of the same name in `file`."""

    file: Path
    start: int
    stop: int


@dataclass(frozen=True)
class SavedTensor:
    """A tensor on the disk. `pieces` follow one another and cover all rows."""

    name: str  # in the files
    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def count(self) -> int:
        return rows_in(self.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Those rows, on the CPU, in memory of their own. Raises `CheckpointError` for a file that cannot be read."""
        shape = (stop - start, *self.shape[1:]) if self.shape else ()
        made = torch.empty(shape, dtype=self.dtype)
        for piece in self.pieces:
            first, last = max(start, piece.start), min(stop, piece.stop)
            if first >= last:
                continue
            try:
                with safe_open(piece.file, framework="pt") as handle:
                    if not self.shape:
                        return made.copy_(handle.get_tensor(self.name))
                    found = handle.get_slice(self.name)[first - piece.start : last - piece.start]
                    made[first - start : last - start] = found
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{piece.file}: cannot be read: {error}") from None
        return made

    def whole(self) -> Tensor:
        return self.rows(0, self.count)


Saved = Mapping[str, Mapping[str, "Tensor | SavedTensor"]]  # by group and name


def rows_in(shape: tuple[int, ...] | torch.Size) -> int:
    return shape[0] if len(shape) else 1


def own_rows(tensor: Tensor) -> tuple[Tensor, int, int]:
    """What this process has of a tensor that may be shared out (a DTensor): the part, and its first and last row.

    The part is the tensor's own memory. Raises ValueError for one that is not shared out by rows.
    """
    placements: Any = getattr(tensor, "placements", None)
    if placements is None:
        return tensor, 0, rows_in(tensor.shape)
    shares: Any = tensor
    *_, last = placements
    if not last.is_shard(0) or any(not p.is_replicate() for p in placements[:-1]):
        raise ValueError(f"shared out as {placements}, not by rows")
    mesh, rows = shares.device_mesh, tensor.shape[0]
    each = -(-rows // mesh.size(mesh.ndim - 1))
    start = min(rows, each * mesh.get_local_rank(mesh.ndim - 1))
    part = shares.to_local()
    return part, start, start + len(part)


def is_first_copy(tensor: Tensor) -> bool:
    """Whether no earlier process has the same part of a tensor as this one."""
    from glm_train import dist

    mesh: Any = getattr(tensor, "device_mesh", None)
    if mesh is None:
        return dist.rank() == 0
    return mesh.ndim == 1 or mesh.get_local_rank(0) == 0


@torch.no_grad()
def put(tensor: Tensor, saved: Tensor | SavedTensor) -> None:
    """Copy a saved tensor into one of the same shape, or this process's rows of it."""
    part, start, stop = own_rows(tensor)
    part.copy_(_rows_of(saved, start, stop))


@torch.no_grad()
def like(saved: Tensor | SavedTensor, tensor: Tensor) -> Tensor:
    """A saved tensor on the device of `tensor`, shared out as that is where their shapes are equal."""
    if tuple(saved.shape) != tuple(tensor.shape) or not hasattr(tensor, "placements"):
        return saved if isinstance(saved, Tensor) else saved.whole()
    from torch.distributed.tensor import DTensor

    shares: Any = tensor
    part, start, stop = own_rows(tensor)
    rows = _rows_of(saved, start, stop).to(part.device)
    return DTensor.from_local(
        rows, shares.device_mesh, shares.placements, shape=tensor.shape, stride=tensor.stride()
    )


def _rows_of(saved: Tensor | SavedTensor, start: int, stop: int) -> Tensor:
    if isinstance(saved, SavedTensor):
        return saved.rows(start, stop)
    return saved[start:stop] if saved.ndim else saved


def check_cover(name: str, shape: tuple[int, ...], pieces: tuple[Piece, ...], where: Path) -> None:
    """Raise `CheckpointError` unless the pieces cover all rows once, in order."""
    at = 0
    for piece in pieces:
        if piece.start != at or piece.stop < piece.start:
            raise CheckpointError(f"{where}: rows {at} and on of {name} are missing or come twice")
        at = piece.stop
    if at != rows_in(shape) and 0 not in shape:
        raise CheckpointError(f"{where}: {name} has {at} of its {rows_in(shape)} rows")
