"""The gated MLP with one fused gate-and-up projection (Shazeer 2020, arXiv 2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glm_train.model.config import GlmConfig

_ACTIVATION: dict[str, Callable[[Tensor], Tensor]] = {"gelu": nn.functional.gelu, "relu": nn.functional.relu}


class GlmMLP(nn.Module):
    """`down(up * act(gate))`, where the gate is the first half of `gate_up_proj`'s output."""

    def __init__(self, config: GlmConfig) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = _ACTIVATION.get(config.hidden_act)  # None: silu, the family's own

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up_proj(x)
        if self.activation is None:
            gated = _SwiGLU.apply(gate_up) if torch.is_grad_enabled() else _gated(gate_up)
            return self.down_proj(gated)
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down_proj(up * self.activation(gate))


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    if torch.compiler.is_compiling():  # as in norm.py
        return nn.functional.silu(gate) * up
    return nn.functional.silu(gate).mul_(up)


class _SwiGLU(torch.autograd.Function):
    """up * silu(gate), keeping only its input for backward: 2I numbers a token, where autograd would keep 3I.

    With s = sigmoid(gate): d up = dy gate s,  d gate = dy up s (1 + gate (1 - s)).
    """

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        gate_grad, up_grad = out.chunk(2, dim=-1)
        torch.mul(grad, nn.functional.silu(gate), out=up_grad)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        return out
