"""A linear layer with a frozen weight W and a trained low-rank change: y = x W^T + b + s (drop(x) A^T) B^T.

Shapes: N rows (tokens), I inputs, O outputs, R rank.

One autograd function instead of three linear layers. W gets no gradient, so x is kept for A's gradient alone: once, in
its own dtype, shared by query, key and value. Of dropout only the mask is kept. Backward adds A's part to W's in place:

    D = s dY B (N, R)     dA = D^T drop(x)     dB = s dY^T (drop(x) A^T)     dx = dY W + drop(D A)

Dtypes. Under autocast all products are in autocast's dtype. Without it the frozen part is in W's dtype and the low-rank
part in the factors' (fp32), rounded to W's dtype once, when they are added: what PEFT does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glm_train.adapters.quantize import dense


def adapted_linear(
    x: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    a_RI: Tensor,
    b_OR: Tensor,
    scaling: float,
    drop: float,
) -> Tensor:
    """y (..., O) of x (..., I). Weight and bias are constants: they get no gradient. `drop`: dropout's probability."""
    state = getattr(weight_OI, "quant_state", None)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        narrow = wide = torch.get_autocast_dtype(device)
    else:
        narrow = weight_OI.dtype if state is None else state.dtype
        wide = torch.promote_types(narrow, a_RI.dtype)
    how = _How(scaling, drop, narrow, wide, state)
    if torch.is_grad_enabled():
        return _AdaptedLinear.apply(x, weight_OI, bias_O, a_RI, b_OR, how)
    return _forward(x, weight_OI, bias_O, a_RI, b_OR, how)[0]


class _How(NamedTuple):
    """What is no tensor: of the product, its dtypes, and how a 4-bit weight is read."""

    scaling: float
    drop: float
    narrow: torch.dtype  # of the frozen product
    wide: torch.dtype  # of the low-rank ones
    state: Any

    def weight(self, stored: Tensor) -> Tensor:
        return dense(stored, self.state).to(self.narrow)


def _forward(
    x: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    a_RI: Tensor,
    b_OR: Tensor,
    how: _How,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """y, drop(x) A^T (N, R), and dropout's mask (N, I)."""
    wide = how.wide
    x_NI = x.reshape(-1, x.shape[-1])
    bias_O = None if bias_O is None else bias_O.to(how.narrow)
    y_NO = torch.nn.functional.linear(x_NI.to(how.narrow), how.weight(weight_OI), bias_O)
    mask_NI = None
    x_NI = x_NI.to(wide)
    if how.drop:
        mask_NI, share = _kept(x_NI, how.drop)
        x_NI = x_NI * mask_NI.to(wide)
        a_RI = a_RI / share
    low_NR = x_NI @ a_RI.to(wide).t()
    y_NO, b_RO = y_NO.to(wide), b_OR.to(wide).t()
    # In place, but not where it is compiled: as in model/norm.py.
    add = torch.addmm if torch.compiler.is_compiling() else Tensor.addmm_
    y_NO = add(y_NO, low_NR, b_RO, alpha=how.scaling).to(how.narrow)
    return y_NO.view(*x.shape[:-1], y_NO.shape[1]), low_NR, mask_NI


def _share_kept(drop: float) -> float:
    """The share of numbers that dropout keeps: `drop` is rounded to a 65,536th."""
    return 1 - round(drop * 65536) / 65536


def _kept(x_NI: Tensor, drop: float) -> tuple[Tensor, float]:
    """True where dropout keeps a number, (N, I), and the share of those.

    On a CPU four decisions are read from each random number of 64 bits, which takes a fifth of torch's time for them.
    """
    share = _share_kept(drop)
    if not x_NI.is_cpu or torch.compiler.is_compiling():
        return torch.rand(x_NI.shape, device=x_NI.device) < share, share
    bits = torch.empty((x_NI.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    quarters_NI = bits.view(torch.int16)[: x_NI.numel()].view(x_NI.shape)
    return quarters_NI >= round(drop * 65536) - 32768, share


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
        b_OR: Tensor,
        how: _How,
    ) -> Tensor:
        y, low_NR, mask_NI = _forward(x, weight_OI, bias_O, a_RI, b_OR, how)
        ctx.save_for_backward(x, weight_OI, a_RI, b_OR, low_NR, mask_NI)
        ctx.how = how
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, a_RI, b_OR, low_NR, mask_NI = ctx.saved_tensors
        how: _How = ctx.how
        wide = how.wide
        x_NI, grad_NO = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        wide_grad_NO = grad_NO.to(wide)
        pull_NR = (wide_grad_NO @ b_OR.to(wide)).mul_(how.scaling)
        dropped_NI = x_NI.to(wide)
        if mask_NI is not None:
            wide_mask_NI = mask_NI.to(wide)
            dropped_NI = dropped_NI * wide_mask_NI
            pull_NR /= _share_kept(how.drop)
        a_grad = (pull_NR.t() @ dropped_NI).to(a_RI.dtype)
        b_grad = (wide_grad_NO.t() @ low_NR).mul_(how.scaling).to(b_OR.dtype)
        x_grad = None
        if ctx.needs_input_grad[0]:
            through_NI = (grad_NO.to(how.narrow) @ how.weight(weight_OI)).to(wide)
            if mask_NI is None:
                through_NI.addmm_(pull_NR, a_RI.to(wide))
            else:
                through_NI.addcmul_(pull_NR @ a_RI.to(wide), wide_mask_NI)
            x_grad = through_NI.to(x.dtype).view(x.shape)
        return x_grad, None, None, a_grad, b_grad, None


@torch.no_grad()
def row_lengths(weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, scaling: float) -> Tensor:
    """The fp32 length of each row of W + s B A (O,), which exists for a few rows at a time."""
    with torch.autocast(weight_OI.device.type, enabled=False):
        a_RI, b_OR = a_RI.float(), b_OR.float()
        lengths_O = torch.empty(len(weight_OI), dtype=torch.float32, device=weight_OI.device)
        for rows in row_tiles(weight_OI):
            changed_OI = torch.addmm(weight_OI[rows].float(), b_OR[rows], a_RI, alpha=scaling)
            lengths_O[rows] = torch.linalg.vector_norm(changed_OI, dim=1)
        return lengths_O


def row_tiles(weight_OI: Tensor) -> list[slice]:
    """Ranges of rows that hold at most 8 million numbers each: an fp32 copy of one takes 32 MiB."""
    step = max(1, 2**23 // weight_OI.shape[1])
    return [slice(start, start + step) for start in range(0, len(weight_OI), step)]
