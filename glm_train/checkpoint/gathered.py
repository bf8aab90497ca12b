"""Weights that are shared out over processes, written by one of them, which never has more than one of them whole.

process 0                              the others
says which tensor it writes next       hear it
gathers it with them, writes it,       gather it too, and let it go
lets it go
...
says that all is written, or why not   return, or end too
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from glm_train import dist
from glm_train.checkpoint.fit import places
from glm_train.checkpoint.safetensors_file import Deferred
from glm_train.errors import FailedElsewhere

Tensors = Mapping[str, Tensor | Deferred]


def write_together(shares: Mapping[str, Tensor], write: Callable[[Tensors], None]) -> None:
    """Call `write` in process 0 with the tensors of `shares`; every process calls this, with the same names.

    What is shared out (a DTensor) is `Deferred` there: whole, on the CPU, when it is made, which may be in any order
    and more than once. Raises in process 0 what `write` raises, and in the others `FailedElsewhere` with the same
    words.
    """
    if dist.rank() > 0:
        _serve(shares)
        return
    tensors = {name: _deferred(name, tensor) for name, tensor in shares.items()}
    try:
        write(tensors)
    except Exception as error:  # not for a signal, which may come where the others wait for something else
        dist.from_rank_0((None, str(error) or type(error).__name__))
        raise
    dist.from_rank_0((None, None))


def end_sharing(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model that FSDP2 has shared out, or not, each once, by their first name in the state dict.

    The model's classes are its own again, and it cannot run any more: its weights stay shares.
    """
    if dist.is_launched():
        from torch.distributed.fsdp import FSDPModule

        shared = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in shared:
            module.reshard()  # a forward without backward leaves gathered weights behind
        for module in shared:
            module.__class__ = type(module).__bases__[1]  # fully_shard puts its own class before the module's
    return {place.names[0]: place.target.detach() for place in places(model)}


def _serve(shares: Mapping[str, Tensor]) -> None:
    while True:
        name, failure = dist.from_rank_0(None)
        if failure is not None:
            raise FailedElsewhere(failure)
        if name is None:
            return
        _whole(shares[name])


def _deferred(name: str, tensor: Tensor) -> Tensor | Deferred:
    if not hasattr(tensor, "placements"):
        return tensor
    return Deferred(tensor.dtype, tuple(tensor.shape), partial(_ask, name, tensor))


def _ask(name: str, tensor: Tensor) -> Tensor:
    dist.from_rank_0((name, None))
    return _whole(tensor).cpu()


@torch.no_grad()
def _whole(tensor: Any) -> Tensor:
    """Of shares that wait in the memory of the CPU too: they meet on the device of the processes' group."""
    return tensor.to(tensor.device_mesh.device_type).full_tensor()
