"""The three matrix products of a language-model head, with fp32 results whatever the operands' dtype.

C rows of a chunk, H hidden, V vocab. fp32 operands take one library call each. For 16-bit operands:

- on an accelerator the products run on 16-bit values and only the result is fp32 (`out_dtype`);
- on a CPU, where 16-bit products are no faster, the values are widened to fp32, the weight one tile at a time.

Either way no fp32 copy of the weight exists, and a logit is never rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# 2,048 rows of 4,096 fp32 values are 32 MiB: what an accelerator's second-level cache holds, so that adding a tile to
# the weight gradient reads and writes the gradient once and the tile not at all.
_TILE_ELEMENTS = 2048 * 4096


def logits_into(out_CV: Tensor, hidden_CH: Tensor, weight_VH: Tensor) -> None:
    """out = hidden @ weight.T"""
    if weight_VH.dtype == out_CV.dtype:
        torch.mm(hidden_CH, weight_VH.t(), out=out_CV)
    elif out_CV.is_cpu:
        wide_CH = hidden_CH.to(out_CV.dtype)
        for rows in _tiles(weight_VH):
            torch.mm(wide_CH, weight_VH[rows].to(out_CV.dtype).t(), out=out_CV[:, rows])
    else:
        torch.mm(hidden_CH, weight_VH.t(), out_dtype=out_CV.dtype, out=out_CV)


def hidden_gradient_into(out_CH: Tensor, grads_CV: Tensor, weight_VH: Tensor, scale: float) -> None:
    """out = scale * grads @ weight"""
    if weight_VH.dtype == grads_CV.dtype:
        torch.addmm(out_CH, grads_CV, weight_VH, beta=0, alpha=scale, out=out_CH)
        return
    wide_CH = grads_CV.new_zeros(out_CH.shape)
    for rows in _tiles(weight_VH):
        wide_CH.addmm_(grads_CV[:, rows], weight_VH[rows].to(grads_CV.dtype), alpha=scale)
    out_CH.copy_(wide_CH)


def add_weight_gradient(
    total_VH: Tensor, grads_CV: Tensor, hidden_CH: Tensor, scale: float, *, first: bool
) -> None:
    """total += scale * grads.T @ hidden; with `first` the total's old content is overwritten, not added to."""
    if grads_CV.dtype == total_VH.dtype:
        wide_CH = hidden_CH.to(grads_CV.dtype)
        beta = 0 if first else 1
        torch.addmm(total_VH, grads_CV.t(), wide_CH, beta=beta, alpha=scale, out=total_VH)
        return
    if first:
        total_VH.zero_()
    for rows in _tiles(total_VH):
        tile_VH = torch.mm(grads_CV[:, rows].t(), hidden_CH, out_dtype=total_VH.dtype)
        total_VH[rows].add_(tile_VH, alpha=scale)


def _tiles(matrix_VH: Tensor) -> Iterator[slice]:
    vocab, hidden = matrix_VH.shape
    step = max(1, _TILE_ELEMENTS // hidden)
    return (slice(start, min(start + step, vocab)) for start in range(0, vocab, step))
