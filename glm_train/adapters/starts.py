"""First values of a layer's two factors, A (R, I) and B (O, R), in fp32, from torch's global generator.

PiSSA and OLoRA start from parts of the weight itself, W = (W - s B0 A0) + s B0 A0, and train those. PEFT writes the
rest, W - s B0 A0, over the base. Here the base stays as it is, and the start is taken off at run time, at the price of
a rank twice as high in the forward pass:

    y = x (W + s (B A - B0 A0))^T

So a 16-bit or 4-bit base loses nothing to rounding, and what is saved is a plain adapter of rank 2R on the plain base:
[B, -B0] [A; A0].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from glm_train.adapters.settings import SPLITS

# The shorter side above which a new adapter's singular triplets are found by iteration. All of those of a matrix of
# GLM-4-9B take minutes on a CPU, the first few seconds.
_EXACT_SIDE = 1024
_SPARE, _ROUNDS = 32, 16


@torch.no_grad()
def first_values(
    weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, init: str, scaling: float, *, new: bool = False
) -> bool:
    """Fill A and B in place. True where the adapter's own start has to be taken off (`pissa`, `olora`).

    `new`: nobody has to find the same start again, as those must who load an adapter that counts from it.
    """
    if init in SPLITS:
        with torch.autocast(weight_OI.device.type, enabled=False):
            split = _olora if init == "olora" else _pissa
            a, b = split(weight_OI.float(), len(a_RI), scaling, new)
        a_RI.copy_(a)
        b_OR.copy_(b)
        return True
    if init == "gaussian":
        nn.init.normal_(a_RI, std=1 / len(a_RI))
    else:
        nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5))
    nn.init.zeros_(b_OR)
    return False


def _pissa(weight_OI: Tensor, rank: int, scaling: float, new: bool) -> tuple[Tensor, Tensor]:
    """The r largest singular triplets, each factor with the root of the singular values."""
    if new and (side := min(weight_OI.shape)) > _EXACT_SIDE:
        left, values, right_IR = torch.svd_lowrank(weight_OI, min(rank + _SPARE, side), _ROUNDS)
        right = right_IR.t()
    else:
        left, values, right = torch.linalg.svd(weight_OI, full_matrices=False)
    roots_R = (values[:rank] / scaling).sqrt()
    return roots_R[:, None] * right[:rank], left[:, :rank] * roots_R


def _olora(weight_OI: Tensor, rank: int, _scaling: float, _new: bool) -> tuple[Tensor, Tensor]:
    """The first r columns of Q and rows of R. Those columns depend on the weight's first r columns only."""
    q_OR, _ = torch.linalg.qr(weight_OI[:, :rank])
    return q_OR.t() @ weight_OI, q_OR
