"""What a step has to know of all processes: the mean gradient, its norm, the loss and the number of tokens.

Losses are scaled by the number of processes, so that the mean of their gradients is the gradient of the step.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from glm_train import dist
from glm_train.parallel.shard import is_sharded, local

BUCKET = 2**26  # numbers that travel in one message


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over all processes, which all have the whole model.

    A sharded model's have been averaged in backward already. A parameter without a gradient counts as 0, so that all
    processes send the same numbers.
    """
    world_size = dist.world_size()
    if world_size == 1 or is_sharded(model):
        return
    for bucket in _buckets(model):
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce_sum(flat).div_(world_size)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for parameter, gradient, part in zip(bucket, gradients, parts, strict=True):
            parameter.grad = gradient.copy_(part.view_as(gradient))


def _buckets(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """The trained parameters in groups of one dtype and at most BUCKET numbers, or of one larger parameter."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if bucket and (parameter.dtype != bucket[0].dtype or size + parameter.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


@torch.no_grad()
def sum_over_ranks(model: nn.Module, loss: Tensor, tokens: int) -> tuple[Tensor, int, Tensor | None]:
    """The sums of `loss` (0-d) and `tokens` over all processes, and for a sharded model the norm of its gradient.

    One message, read at once: what is not finite must stop the step on all processes alike.
    """
    if dist.world_size() == 1 and not is_sharded(model):
        return loss, tokens, None
    squared = torch.zeros((), dtype=torch.float64, device=loss.device)
    for gradient in local_gradients(model) if is_sharded(model) else []:
        squared += torch.linalg.vector_norm(gradient).to(loss.device).double().square()
    sums = torch.stack(
        (
            loss.double(),
            torch.tensor(tokens, dtype=torch.float64, device=loss.device),
            squared / _copies(model),
        )
    )
    total, count, square = dist.all_reduce_sum(sums)
    return total.float(), int(count), square.sqrt().float() if is_sharded(model) else None


@torch.no_grad()
def scale_down(model: nn.Module, norm: Tensor, max_norm: float | None) -> None:
    """Scale the gradient of a sharded model so that its norm, now `norm`, is at most `max_norm`."""
    if max_norm is not None and norm > max_norm:
        factor = (max_norm / norm).item()
        torch._foreach_mul_(local_gradients(model), factor)


def local_gradients(model: nn.Module) -> list[Tensor]:
    """This process's parts of all gradients."""
    return [local(p.grad) for p in model.parameters() if p.grad is not None]


def _copies(model: nn.Module) -> int:
    """How many processes hold the same shard."""
    if not is_sharded(model):
        return 1
    mesh = next(p for p in model.parameters() if hasattr(p, "device_mesh")).device_mesh
    return mesh.size(0) if mesh.ndim == 2 else 1
