"""A model shared out over processes (FSDP2), and what can be done with it then.

Each decoder layer is a unit whose weights are gathered while it runs; embedding, final norm and language-model head are
one more, gathered for the whole of a microbatch. A classifier's head is a unit of its own, because it computes in fp32.

Dtypes: a shard keeps the dtype of its weight (trained: fp32). Under bf16-mixed a gathered weight is bf16, and so are
activations; gradients are summed over processes in fp32. Frozen bf16 weights and trained fp32 ones may share a unit.

FSDP2 acts when a module is called, and the tasks reach into the model past its `forward`: they want the hidden states
of some positions and the head's weight. So a task's loss runs inside `whole`, which is to FSDP2 the root's forward.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from glm_train import dist
from glm_train.parallel.parallelize import decoder_layers

T = TypeVar("T")
_INSIDE = "run_inside"


def build_mesh(device: str, shard_size: int) -> DeviceMesh:
    """The processes as (copies, shards of a copy), or as shards alone where there is one copy."""
    world_size = dist.world_size()
    if shard_size == world_size:
        return init_device_mesh(device, (world_size,), mesh_dim_names=("shard",))
    shape = (world_size // shard_size, shard_size)
    return init_device_mesh(device, shape, mesh_dim_names=("copy", "shard"))


def shard(
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    dtype: torch.dtype | None,
    compute: torch.dtype | None,
    offload: bool = False,
    prefetch: int = 1,
) -> None:
    """Share out `model` in place, layer by layer: a process holds one whole layer at a time, and its shards.

    Weights that are mapped from files in another dtype become `dtype` on the way; None leaves all as they are.
    `compute` is the dtype of gathered weights; None: their own. `prefetch` layers are fetched ahead.
    """
    offloading = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    shared: dict[str, Any] = {"mesh": mesh, "offload_policy": offloading}
    mixed = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    plain = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers = decoder_layers(model)
    for layer in layers:
        _cast(layer, dtype)
        fully_shard(layer, mp_policy=mixed, **shared)
    _cast(model, dtype)
    if isinstance(head := getattr(model, "score", None), nn.Module):
        fully_shard(head, mp_policy=plain, **shared)
    fully_shard(model, mp_policy=mixed, reshard_after_forward=False, **shared)
    for index, layer in enumerate(layers):
        if prefetch:
            layer.set_modules_to_forward_prefetch(list(layers[index + 1 : index + 1 + prefetch]))  # type: ignore
    setattr(model, _INSIDE, MethodType(_call, model))
    register_fsdp_forward_method(model, _INSIDE)


def is_sharded(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def whole(model: nn.Module, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` while the weights of `model` are there to be used."""
    return getattr(model, _INSIDE)(function, *args) if is_sharded(model) else function(*args)


def last_microbatch(model: nn.Module, last: bool) -> None:
    """Say before a forward whether its backward ends the step: only then are gradients summed over processes."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)


def let_go(model: nn.Module) -> None:
    """Free gathered weights that a forward without backward leaves behind, so that parameters are shards again."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def device_of(model: nn.Module) -> torch.device:
    """Where the model computes: shards may wait in the memory of the CPU."""
    weight = next(model.parameters())
    if isinstance(weight, DTensor) and weight.device_mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return weight.device


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _call(model: nn.Module, function: Callable[..., T], *args: Any) -> T:
    return function(*args)


def _cast(module: nn.Module, dtype: torch.dtype | None) -> None:
    if dtype is None:
        return
    for parameter in module.parameters():
        if getattr(parameter, "mapped", False) and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(dtype)
