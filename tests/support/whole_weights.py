"""A model that is shared out over processes, made whole again in one of them, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from glm_train import dist
from glm_train.parallel.shard import is_sharded, let_go


@torch.no_grad()
def gather_on_rank_0(model: nn.Module) -> None:
    """End the sharing: on rank 0 each trained weight is whole again, on the CPU. One tensor at a time is gathered.

    What an adapter left frozen stays a shard: it is where it came from. On other ranks the shards go. The model cannot
    run any more, but it can be saved on rank 0.
    """
    if not is_sharded(model):
        return
    let_go(model)
    made: dict[int, nn.Parameter] = {}  # a tied weight stays one
    for module in list(model.modules()):
        for name, parameter in list(module._parameters.items()):
            if parameter is None or not isinstance(parameter, DTensor) or not parameter.requires_grad:
                continue
            if id(parameter) not in made:
                shares: Any = parameter.detach().to(parameter.device_mesh.device_type)
                full = shares.full_tensor()
                kept = full.cpu() if dist.rank() == 0 else torch.empty(0)
                made[id(parameter)] = nn.Parameter(kept)
                made[id(parameter)].was = parameter  # type: ignore[attr-defined]  # else its id may come again
            module._parameters[name] = made[id(parameter)]
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.__class__ = type(module).__bases__[1]  # fully_shard puts its own class before the module's
    for parameter in made.values():
        del parameter.was  # type: ignore[attr-defined]
