"""Token losses of a chunk of logits, made in the memory of the logits. C rows of the chunk, V vocab, H hidden.

With z a row of logits, t its target, m = max z and S = sum_v exp(z_v - m):

    loss = log S + m - z_t            d loss / d z_v = exp(z_v - m) / S - [v = t]
"""

from __future__ import annotations

import torch
from torch import Tensor


def losses_in_place(
    logits_CV: Tensor, targets_C1: Tensor, hidden_CH: Tensor, weight_VH: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The losses (C, 1), and the sums S (C, 1) by which the logits' memory still has to be divided to hold the softmax.

    S is None where the division is done. Hidden states and weight are those that the logits came from.
    """
    if logits_CV.is_cpu:
        return _fused(logits_CV, targets_C1, hidden_CH, weight_VH), None
    return _step_by_step(logits_CV, targets_C1)


def logit_gradients(
    softmax_CV: Tensor, sums_C1: Tensor | None, targets_C1: Tensor, dtype: torch.dtype
) -> Tensor:
    """d loss / d logits (C, V) from what `losses_in_place` left, in the same memory where `dtype` is its own.

    The one-hot is subtracted before anything is rounded to 16 bits: near p = 1 the difference p - 1 would be lost.
    """
    if sums_C1 is None:
        softmax_CV.scatter_add_(1, targets_C1, softmax_CV.new_full(targets_C1.shape, -1.0))
        return softmax_CV.to(dtype)
    softmax_CV.scatter_add_(1, targets_C1, -sums_C1)
    grads_CV = softmax_CV if softmax_CV.dtype == dtype else torch.empty_like(softmax_CV, dtype=dtype)
    return torch.div(softmax_CV, sums_C1, out=grads_CV)


def _step_by_step(logits_CV: Tensor, targets_C1: Tensor) -> tuple[Tensor, Tensor]:
    """The accelerators' way: nothing waits for the device, and the division is left to be fused with a rounding."""
    target_logits_C1 = logits_CV.gather(1, targets_C1)
    max_C1 = logits_CV.amax(1, keepdim=True)
    sums_C1 = logits_CV.sub_(max_C1).exp_().sum(1, keepdim=True)
    return sums_C1.log() + max_C1 - target_logits_C1, sums_C1


def _fused(logits_CV: Tensor, targets_C1: Tensor, hidden_CH: Tensor, weight_VH: Tensor) -> Tensor:
    """The CPU's way: torch's softmax kernel makes maximum, sum and quotient in half the passes over memory.

    A loss is then -log p_t. Where p_t is too small for its dtype (a loss above 87 nats in fp32), it comes from the
    row's likeliest token k instead: log S + m = z_k - log p_k, and p_k >= 1 / V.
    """
    target_logits_C1 = logits_CV.gather(1, targets_C1)
    torch.softmax(logits_CV, 1, out=logits_CV)
    p_target_C1 = logits_CV.gather(1, targets_C1)
    losses_C1 = -p_target_C1.log()
    lost_C1 = p_target_C1 < torch.finfo(logits_CV.dtype).tiny
    if not lost_C1.any():
        return losses_C1
    p_best_C1, best_C1 = logits_CV.max(1, keepdim=True)
    best_weight_CH = weight_VH[best_C1[:, 0]].to(logits_CV.dtype)
    best_logits_C1 = (hidden_CH.to(logits_CV.dtype) * best_weight_CH).sum(1, keepdim=True)
    return torch.where(lost_C1, best_logits_C1 - p_best_C1.log() - target_logits_C1, losses_C1)
