"""Rotary position embedding on interleaved pairs of the first channels of a head (Su et al. 2021, arXiv 2104.09864).

With head_dim 8 and partial_rotary_factor 0.5 the first four channels turn, in pairs of neighbours:

    channel   0 1 | 2 3 | 4 5 6 7
    angle     p*w0  p*w1   kept as they are          w_i = theta ** (-2i / 4), p = position

Shapes: B batch, T tokens, N heads, D head dim, R rotated channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glm_train.model.config import GlmConfig


def inverse_frequencies(config: GlmConfig) -> Tensor:
    """The angle per position of each pair, (R/2,) in fp32 on the CPU."""
    exponent_P = (
        torch.arange(0, config.rotary_dim, 2, dtype=torch.int64, device="cpu").float() / config.rotary_dim
    )
    return 1.0 / (config.rope_theta**exponent_P)


def rotary_tables(inverse_P: Tensor, position_ids_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (B, T, 1, R/2) in `dtype`; the angles are computed in fp32, autocast or not."""
    with torch.autocast(position_ids_BT.device.type, enabled=False):
        angle_BT1P = (position_ids_BT[..., None].float() * inverse_P)[..., None, :]
        return angle_BT1P.cos().to(dtype), angle_BT1P.sin().to(dtype)


def apply_rotary(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
    """Turn the first R channels of each head by the tables' angles; the others pass through."""
    return _Rotary.apply(x_BTND, cos_BT1P, sin_BT1P)


class _Rotary(torch.autograd.Function):
    """Turning back by the same angles is the gradient, so only the tables are kept, not what was turned."""

    @staticmethod
    def forward(ctx: Any, x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
        ctx.save_for_backward(cos_BT1P, sin_BT1P)
        return _turn(x_BTND, cos_BT1P, sin_BT1P, sign=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTND: Tensor) -> tuple[Tensor, None, None]:
        cos_BT1P, sin_BT1P = ctx.saved_tensors
        return _turn(grad_BTND, cos_BT1P, sin_BT1P, sign=-1), None, None


def _turn(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor, sign: int) -> Tensor:
    rotary_dim = 2 * cos_BT1P.shape[-1]
    even, odd = x_BTND[..., 0:rotary_dim:2], x_BTND[..., 1:rotary_dim:2]
    dtype = torch.promote_types(x_BTND.dtype, cos_BT1P.dtype)
    out_BTND = torch.empty(x_BTND.shape, dtype=dtype, device=x_BTND.device)
    torch.mul(even, cos_BT1P, out=out_BTND[..., 0:rotary_dim:2]).addcmul_(odd, sin_BT1P, value=-sign)
    torch.mul(odd, cos_BT1P, out=out_BTND[..., 1:rotary_dim:2]).addcmul_(even, sin_BT1P, value=sign)
    out_BTND[..., rotary_dim:] = x_BTND[..., rotary_dim:]
    return out_BTND
