"""Rank, world size and one-number reductions that also work in a process nobody launched.

Only a process group counts. RANK and WORLD_SIZE in the environment may be left over from something else, and a process
that believed them would train on its share of the data alone.
"""

from __future__ import annotations

import torch
import torch.distributed as dist


def is_launched() -> bool:
    """True inside a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's global rank; 0 when unlaunched."""
    return dist.get_rank() if is_launched() else 0


def world_size() -> int:
    """How many processes train together; 1 when unlaunched."""
    return dist.get_world_size() if is_launched() else 1


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place; `value` itself when unlaunched."""
    if is_launched():
        dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value
