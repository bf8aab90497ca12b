"""Cross-entropy of a language-model head without its logits: they exist for one chunk of rows at a time.

M trained positions, C rows of a chunk, H hidden, V vocab. A GLM-4-9B head turns 8,192 positions into 4.6 GiB of fp32
logits and, in the textbook form, as much again for each step of the softmax and its gradient. Here each chunk goes all
the way, in one buffer, before the next one starts:

    for rows in chunks of M:                  memory
        Z  = X[rows] W^T                      C x V, the only one, reused
        loss += sum(logsumexp(Z) - Z[target])
        G  = softmax(Z) - onehot(target)      in place of Z
        dX[rows] = G W                        M x H
        dW += G^T X[rows]                     V x H, fp32; not made when the head is frozen

The gradients are ready when the forward pass ends, so backward only multiplies them by the gradient of its output.
The idea is that of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989). Unlike there and in torch's own
`F.linear_cross_entropy`, chunks are few and large, and dW is summed in fp32: a sum of 64 chunks in bf16 is 1 % off.

dW is not added into `weight.grad` directly: hooks (the reduction among ranks, among others) would not see it, and
autograd takes the returned buffer as `weight.grad` without a copy anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glm_train.losses.products import add_weight_gradient, hidden_gradient_into, logits_into
from glm_train.losses.softmax import logit_gradients, losses_in_place

# fp32 bytes of one chunk's logits. Each chunk reads and writes dW once (V x H x 8 bytes), so it should have about as
# many rows as H, or more; beyond that nothing gets faster. On two CPU cores with V = 151,552 and H = 256, 32 rows take
# 1.6 times as long as 256, and 1,000 rows gain nothing. Accelerators want 1,024 rows or more for full-speed products.
_CHUNK_BYTES_CPU = 128 * 2**20
_CHUNK_BYTES = 640 * 2**20


def linear_cross_entropy(
    hidden_MH: Tensor,
    weight_VH: Tensor,
    targets_M: Tensor,
    *,
    scale: float = 1.0,
    chunk_rows: int | None = None,
) -> Tensor:
    """`scale` times the SUM over positions of -log softmax(hidden @ weight.T)[target], in nats: a 0-d fp32 tensor.

    Targets are int64 class ids below V; rows that are not trained are left out by the caller, never marked -100.
    M may be 0: the result is 0, attached to both inputs, with zero gradients. Differentiable once; gradients have the
    dtypes of their inputs. Without gradients (`torch.no_grad`, nothing trainable) no gradient is made.

    Arguments:
        scale: what the caller would multiply the sum by. Given here it costs nothing; a factor applied to the result
            costs backward one pass over the V x H gradient.
        chunk_rows: rows whose logits exist at a time; by default as many as fit 128 MiB on a CPU, 640 MiB elsewhere.

    Under autocast the operands are cast as `F.linear` does, except on a CPU, where fp32 operands stay fp32. Without it
    hidden states may be narrower than the weight (a head trained in fp32 on a frozen bf16 model), and are widened.
    fp64 operands give an fp64 result.
    """
    hidden_MH, compute_dtype = _operands(hidden_MH, weight_VH, targets_M)
    rows = _chunk_rows(weight_VH, chunk_rows)
    if torch.is_grad_enabled() and (hidden_MH.requires_grad or weight_VH.requires_grad):
        return _LinearCrossEntropy.apply(hidden_MH, weight_VH, targets_M, compute_dtype, scale, rows)
    loss, _ = _measure(hidden_MH, weight_VH.to(compute_dtype), targets_M, rows, count_correct=False)
    return loss * scale


@torch.no_grad()
def linear_cross_entropy_metrics(
    hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, *, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """For validation: the sum of the token losses (0-d, fp32) and how many targets are the likeliest token.

    Both are 0-d, fp32 and int64. Nothing is differentiable. Arguments as for `linear_cross_entropy`.
    """
    hidden_MH, compute_dtype = _operands(hidden_MH, weight_VH, targets_M)
    rows = _chunk_rows(weight_VH, chunk_rows)
    return _measure(hidden_MH, weight_VH.to(compute_dtype), targets_M, rows, count_correct=True)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: Tensor,
        weight_VH: Tensor,
        targets_M: Tensor,
        compute_dtype: torch.dtype,
        scale: float,
        chunk_rows: int,
    ) -> Tensor:
        want_hidden, want_weight = ctx.needs_input_grad[:2]
        narrow_VH = weight_VH.to(compute_dtype)
        dtype = _wide(compute_dtype)
        loss = hidden_MH.new_zeros((), dtype=dtype)
        hidden_grad_MH = torch.empty_like(hidden_MH) if want_hidden else None
        weight_grad_VH = torch.empty_like(weight_VH, dtype=dtype) if want_weight else None
        if weight_grad_VH is not None and len(hidden_MH) == 0:
            weight_grad_VH.zero_()
        # On a CPU the products are of widened values, and so the gradients of the logits stay wide.
        grads_dtype = dtype if hidden_MH.is_cpu else compute_dtype
        with torch.autocast(hidden_MH.device.type, enabled=False):
            for rows, logits_CV in _chunks(hidden_MH, narrow_VH, chunk_rows):
                hidden_CH, targets_C1 = hidden_MH[rows], targets_M[rows, None]
                losses_C1, sums_C1 = losses_in_place(logits_CV, targets_C1, hidden_CH, narrow_VH)
                loss += losses_C1.sum()
                grads_CV = logit_gradients(logits_CV, sums_C1, targets_C1, grads_dtype)
                if hidden_grad_MH is not None:
                    hidden_gradient_into(hidden_grad_MH[rows], grads_CV, narrow_VH, scale)
                if weight_grad_VH is not None:
                    first = rows.start == 0
                    add_weight_gradient(weight_grad_VH, grads_CV, hidden_CH, scale, first=first)
        ctx.gradients = (hidden_grad_MH, weight_grad_VH)
        ctx.dtypes = (hidden_MH.dtype, weight_VH.dtype)
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "linear_cross_entropy keeps its gradients for one backward pass; this is the second"
            )
        # Released here, so that autograd is the only owner and takes the buffer as `weight.grad` without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (_scaled(g, grad, dtype) for g, dtype in zip(gradients, ctx.dtypes, strict=True))
        return (*scaled, None, None, None, None)


def _scaled(gradient: Tensor | None, factor: Tensor, dtype: torch.dtype) -> Tensor | None:
    """gradient * factor in `dtype`, rounded once, in as few passes as can be known without waiting for a device."""
    if gradient is None:
        return None
    if gradient.dtype != dtype:
        return torch.mul(gradient, factor, out=torch.empty_like(gradient, dtype=dtype))
    if factor.is_cpu and factor.item() == 1.0:
        return gradient
    return gradient.mul_(factor)


def _measure(
    hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor, chunk_rows: int, *, count_correct: bool
) -> tuple[Tensor, Tensor]:
    loss = hidden_MH.new_zeros((), dtype=_wide(weight_VH.dtype))
    correct = torch.zeros((), dtype=torch.int64, device=hidden_MH.device)
    with torch.no_grad(), torch.autocast(hidden_MH.device.type, enabled=False):
        for rows, logits_CV in _chunks(hidden_MH, weight_VH, chunk_rows):
            targets_C1 = targets_M[rows, None]
            if count_correct:
                correct += (logits_CV.max(1, keepdim=True).indices == targets_C1).sum()
            losses_C1, _ = losses_in_place(logits_CV, targets_C1, hidden_MH[rows], weight_VH)
            loss += losses_C1.sum()
    return loss, correct


def _chunks(hidden_MH: Tensor, weight_VH: Tensor, chunk_rows: int) -> Iterator[tuple[slice, Tensor]]:
    """Row ranges of nearly equal length, each with its logits (C, V), in one buffer that may be overwritten."""
    count, vocab = len(hidden_MH), len(weight_VH)
    if count == 0:
        return
    pieces = -(-count // chunk_rows)
    length = -(-count // pieces)
    buffer = hidden_MH.new_empty((length, vocab), dtype=_wide(weight_VH.dtype))
    for start in range(0, count, length):
        rows = slice(start, min(start + length, count))
        logits_CV = buffer[: rows.stop - start]
        logits_into(logits_CV, hidden_MH[rows], weight_VH)
        yield rows, logits_CV


def _operands(hidden_MH: Tensor, weight_VH: Tensor, targets_M: Tensor) -> tuple[Tensor, torch.dtype]:
    """The hidden states in the dtype of the products, and that dtype. Ids out of range fail at look-up."""
    assert hidden_MH.dim() == weight_VH.dim() == 2, "hidden states are (M, H) and the weight is (V, H)"
    assert hidden_MH.shape[1] == weight_VH.shape[1], f"H differs: {hidden_MH.shape} and {weight_VH.shape}"
    assert targets_M.shape == hidden_MH.shape[:1], f"{len(hidden_MH)} rows, targets {tuple(targets_M.shape)}"
    assert targets_M.dtype == torch.int64, f"targets are int64 class ids, not {targets_M.dtype}"
    device = hidden_MH.device.type
    autocast = torch.is_autocast_enabled(device)
    assert autocast or torch.promote_types(hidden_MH.dtype, weight_VH.dtype) == weight_VH.dtype, (
        f"{hidden_MH.dtype} and {weight_VH.dtype} do not mix"
    )
    dtype = torch.get_autocast_dtype(device) if autocast and device != "cpu" else weight_VH.dtype
    return hidden_MH.to(dtype), dtype


def _chunk_rows(weight_VH: Tensor, chosen: int | None) -> int:
    if chosen is not None:
        assert chosen > 0, f"a chunk has at least one row, not {chosen}"
        return chosen
    budget = _CHUNK_BYTES_CPU if weight_VH.is_cpu else _CHUNK_BYTES
    return max(1, budget // (len(weight_VH) * 4))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
