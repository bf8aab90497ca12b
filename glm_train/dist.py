"""Rank, world size, reductions and a gathering of arrays that also work in a process nobody launched.

Only a process group counts. RANK and WORLD_SIZE in the environment may be left over from something else, and a process
that believed them would train on its share of the data alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

# What the calls of this thread go over; None: the default group. Two threads must not share one.
_group: ContextVar[Any] = ContextVar("group", default=None)


def is_launched() -> bool:
    """True inside a process group."""
    return _distributed() is not None


def rank() -> int:
    """This process's global rank; 0 when unlaunched."""
    dist = _distributed()
    return dist.get_rank() if dist else 0


def world_size() -> int:
    """How many processes train together; 1 when unlaunched."""
    dist = _distributed()
    return dist.get_world_size() if dist else 1


def all_reduce_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all ranks, in place; `value` itself when unlaunched."""
    if dist := _distributed():
        dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value


def gather_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all ranks' arrays, those of rank 0 first; `arrays` itself when unlaunched.

    Every rank gives the same names, dtypes and shapes but for the number of rows, which may be 0, and every rank gets
    all rows.
    """
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return arrays
    import numpy as np

    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, arrays)
    return {name: np.concatenate([share[name] for share in shares]) for name in arrays}


def gather_objects(value: Any) -> list[Any]:
    """Every rank's `value`, that of rank 0 first; a list of one when unlaunched. Ranks must be of one program: values
    are pickled on the way."""
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_group.get())
    return values


def from_rank_0(value: Any) -> Any:
    """Rank 0's `value` on every rank."""
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, group=_group.get())
    return values[0]


def new_group() -> Any:
    """Another process group of all ranks, on the CPU, for the calls of another thread; None when unlaunched. All ranks
    call this together."""
    dist = _distributed()
    return dist.new_group(backend="gloo") if dist else None


@contextmanager
def over(group: Any) -> Iterator[None]:
    """Inside, in this thread, objects go over `group`."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def wait_for_all() -> None:
    """Return when every rank has come here."""
    gather_objects(None)


def largest(number: int) -> int:
    """The largest `number` of all ranks. It stays on the CPU: no device is waited for."""
    dist = _distributed()
    if dist is None or dist.get_world_size() == 1:
        return number
    import torch

    found = torch.tensor(number)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found)


def _distributed() -> Any:
    """torch.distributed inside a process group, else None. Nobody can have made a group without importing it, and
    commands that only look at data need not."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None
