"""The norm of the whole gradient: clipped by, and refused when it is no number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from glm_train.errors import CheckFailed


class NonFiniteError(CheckFailed):
    """A loss or a gradient is not a number or infinite: the step must not touch the weights.

    `documents` are the indices of the examples that the step was made of.
    """

    def __init__(self, message: str, documents: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.documents = tuple(documents)


def clip_by_global_norm(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale all gradients in place so that their common 2-norm is at most `max_norm`; None only measures.

    Returns the norm before clipping, a 0-d tensor on the gradients' device, without waiting for that device. It is not
    finite where a gradient is not: `refuse_non_finite` stops such a step. Parameters without a gradient do not count.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if max_norm is not None:
        _scale_down(gradients, norm, max_norm)
    return norm


def _scale_down(gradients: list[Tensor], norm: Tensor, max_norm: float) -> None:
    """Multiply by max_norm / norm where that is below 1. On a CPU, where looking is free, a factor of 1 is left out."""
    factor = (max_norm / norm).clamp(max=1.0)
    if factor.is_cpu and factor.item() == 1.0:
        return
    torch._foreach_mul_(gradients, factor)


def refuse_non_finite(loss: Tensor, norm: Tensor, *, step: int, documents: Sequence[int]) -> None:
    """Raise NonFiniteError unless the step's loss and gradient norm are finite. Waits for the device once.

    Called between backward and the optimizer's step, so the weights are still those of the step before.
    """
    if bool(torch.isfinite(loss) & torch.isfinite(norm).to(loss.device)):
        return
    raise NonFiniteError(
        f"step {step}: the loss is {loss.item():g} and the gradient's norm is {norm.item():g}."
        " The weights were not updated. Look at the examples of the step, or lower optim.lr, or lengthen"
        " schedule.warmup_steps.",
        documents,
    )
