"""Rotary position embedding on interleaved pairs of the first channels of a head (Su et al. 2021, arXiv 2104.09864).

With head_dim 8 and partial_rotary_factor 0.5 the first four channels turn, in pairs of neighbours:

    channel   0 1 | 2 3 | 4 5 6 7
    angle     p*w0  p*w1   kept as they are          w_i = theta ** (-2i / 4), p = position

Shapes: B batch, T tokens, N heads, D head dim, R rotated channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glm_train.model.config import GlmConfig


def inverse_frequencies(config: GlmConfig) -> Tensor:
    """The angle per position of each pair, (R/2,) in fp32 on the CPU, after the config's scaling.

    `linear` divides every angle by its factor, so that more positions fit the range of angles that was trained.
    `yarn` does so for the slow pairs only; see `_yarn`. The order of the arithmetic is transformers', for at position
    100,000 the last bit of a frequency moves an angle by a hundredth.
    """
    exponent_P = (
        torch.arange(0, config.rotary_dim, 2, dtype=torch.int64, device="cpu").float() / config.rotary_dim
    )
    step_P = config.rope_theta**exponent_P
    settings = config.rope_parameters
    if config.rope_type == "yarn":
        return _yarn(step_P, settings, config.rotary_dim)
    inverse_P = 1.0 / step_P
    return inverse_P / settings["factor"] if config.rope_type == "linear" else inverse_P


def attention_scaling(config: GlmConfig) -> float:
    """What cosine and sine are multiplied by, so attention's scores by its square: 1 but for `yarn`.

    YaRN sharpens attention as the context grows, by 0.1 ln(factor) + 1 (Peng et al. 2023, arXiv 2309.00071, eq. 22);
    `attention_factor` sets the number itself, `mscale` over `mscale_all_dim` weighs the logarithm.
    """
    settings = config.rope_parameters
    if config.rope_type != "yarn":
        return 1.0
    if settings.get("attention_factor") is not None:
        return float(settings["attention_factor"])
    weight, weight_of_all, factor = settings.get("mscale"), settings.get("mscale_all_dim"), settings["factor"]
    if weight and weight_of_all:
        return _sharpening(factor, weight) / _sharpening(factor, weight_of_all)
    return _sharpening(factor, 1)


def _sharpening(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(step_P: Tensor, settings: dict[str, Any], rotary_dim: int) -> Tensor:
    """Frequencies of YaRN (Peng et al. 2023, arXiv 2309.00071, section 3.2).

    Pairs that turn more than `beta_fast` times within the original context keep their angle, pairs that turn less than
    `beta_slow` times are slowed by `factor`, and those between are mixed:

        pair      0 ... low     low ... high      high ... R/2
        share kept   1          1 falling to 0        0
    """
    factor, fast, slow = settings["factor"], settings.get("beta_fast", 32), settings.get("beta_slow", 1)
    low, high = (_pair_of(turns, settings, rotary_dim) for turns in (fast, slow))
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    high = high + 0.001 if low == high else high
    pair_P = torch.arange(len(step_P), dtype=torch.float32, device="cpu")
    kept_P = 1 - ((pair_P - low) / (high - low)).clamp(0, 1)
    return 1.0 / (factor * step_P) * (1 - kept_P) + 1.0 / step_P * kept_P


def _pair_of(turns: float, settings: dict[str, Any], rotary_dim: int) -> float:
    """The pair, as a fraction, that turns `turns` times within the original context."""
    context, theta = settings["original_max_position_embeddings"], settings["rope_theta"]
    return rotary_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))


def rotary_tables(
    inverse_P: Tensor, position_ids_BT: Tensor, dtype: torch.dtype, scaling: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine times `scaling`, each (B, T, 1, R/2) in `dtype`; computed in fp32, autocast or not."""
    with torch.autocast(position_ids_BT.device.type, enabled=False):
        angle_BT1P = (position_ids_BT[..., None].float() * inverse_P)[..., None, :]
        cos_BT1P, sin_BT1P = angle_BT1P.cos(), angle_BT1P.sin()
        if scaling != 1.0:
            cos_BT1P, sin_BT1P = cos_BT1P * scaling, sin_BT1P * scaling
        return cos_BT1P.to(dtype), sin_BT1P.to(dtype)


def apply_rotary(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor) -> Tensor:
    """Turn the first R channels of each head by the tables' angles; the others pass through."""
    if not torch.is_grad_enabled():  # a token of generation takes as long as its Python
        return _turn(x_BTND, cos_BT1P, sin_BT1P, sign=1)
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
    if torch.compiler.is_compiling():
        return _turn_without_writing(x_BTND, cos_BT1P, sin_BT1P, sign)
    plain = x_BTND.dtype == cos_BT1P.dtype == torch.float32 and x_BTND.device.type == "cpu"
    if plain and x_BTND.shape[-1] % 2 == 0:
        return _turn_as_complex(x_BTND, cos_BT1P, sin_BT1P, sign)
    rotary_dim = 2 * cos_BT1P.shape[-1]
    even, odd = x_BTND[..., 0:rotary_dim:2], x_BTND[..., 1:rotary_dim:2]
    dtype = torch.promote_types(x_BTND.dtype, cos_BT1P.dtype)
    out_BTND = torch.empty(x_BTND.shape, dtype=dtype, device=x_BTND.device)
    torch.mul(even, cos_BT1P, out=out_BTND[..., 0:rotary_dim:2]).addcmul_(odd, sin_BT1P, value=-sign)
    torch.mul(odd, cos_BT1P, out=out_BTND[..., 1:rotary_dim:2]).addcmul_(even, sin_BT1P, value=sign)
    out_BTND[..., rotary_dim:] = x_BTND[..., rotary_dim:]
    return out_BTND


def _turn_without_writing(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor, sign: int) -> Tensor:
    """For the compiler, which fuses this, and makes poor code of complex numbers and none of writes into slices."""
    turned, rest = x_BTND.split((2 * cos_BT1P.shape[-1], x_BTND.shape[-1] - 2 * cos_BT1P.shape[-1]), dim=-1)
    even, odd = turned[..., 0::2], turned[..., 1::2]
    pairs = (even * cos_BT1P - sign * odd * sin_BT1P, odd * cos_BT1P + sign * even * sin_BT1P)
    both = torch.stack(pairs, dim=-1).flatten(-2)
    return torch.cat((both, rest.to(both.dtype)), dim=-1)


def _turn_as_complex(x_BTND: Tensor, cos_BT1P: Tensor, sin_BT1P: Tensor, sign: int) -> Tensor:
    """Neighbouring channels as one complex number, times cos + i sin: two to four times as fast on a CPU."""
    out_BTND = x_BTND.clone(memory_format=torch.contiguous_format)
    pairs_BTNP = torch.view_as_complex(out_BTND.view(*x_BTND.shape[:-1], -1, 2))
    angle_BT1P = torch.complex(cos_BT1P, sin_BT1P if sign > 0 else -sin_BT1P)
    pairs_BTNP[..., : cos_BT1P.shape[-1]].mul_(angle_BT1P)
    return out_BTND
