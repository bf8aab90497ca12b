"""Rotary position embedding on interleaved pairs of the first channels of a head (Su et al. 2021, arXiv 2104.09864).

With head_dim 8 and partial_rotary_factor 0.5 the first four channels turn, in pairs of neighbours:

    channel   0 1 | 2 3 | 4 5 6 7
    angle     p*w0  p*w1   kept as they are          w_i = theta ** (-2i / 4), p = position

Shapes: B batch, T tokens, N heads, D head dim, R rotated channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    rotary_dim = 2 * cos_BT1P.shape[-1]
    even, odd = x_BTND[..., :rotary_dim].unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack(
        (even * cos_BT1P - odd * sin_BT1P, odd * cos_BT1P + even * sin_BT1P), dim=-1
    ).flatten(-2)
    if rotary_dim == x_BTND.shape[-1]:
        return turned
    return torch.cat((turned, x_BTND[..., rotary_dim:]), dim=-1)
