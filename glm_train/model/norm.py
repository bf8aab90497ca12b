"""RMSNorm, computed in fp32 and cast back before the weight is applied, as transformers does.

With s = 1 / sqrt(mean(x^2) + eps) and n = s x, backward needs x and s alone (one number a token), where autograd would
keep four tensors of the size of x:

    y = w n        dx = s dy w - x s^3 mean(x dy w)        dw = sum over tokens of s x dy
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GlmRMSNorm(nn.Module):
    """`weight * x / sqrt(mean(x^2) + eps)` over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():  # a token of generation takes as long as its Python
            return _normed(x, self.weight, self.eps)[0]
        return _RMSNorm.apply(x, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The result, and s of each token."""
    x32 = x.float()
    scale = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    normed = (x32 * scale).to(x.dtype)
    # Compiled, a result that was changed in place gets a wrong gradient in torch 2.11 (pytorch/pytorch#180642).
    in_place = normed.dtype == weight.dtype and not torch.compiler.is_compiling()
    return (normed.mul_(weight) if in_place else normed * weight), scale


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, scale = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scale)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        wide_x, grad, weight32 = x.to(wide), grad.to(wide), weight.to(wide)
        product = wide_x * grad
        weight_grad = None
        if ctx.needs_input_grad[1]:
            weight_grad = (product.flatten(0, -2).t() @ scale.flatten()).to(weight.dtype)
        pull = (product @ weight32).unsqueeze_(-1).mul_(scale**3).div_(-x.shape[-1])
        return (grad * weight32).mul_(scale).addcmul_(wide_x, pull).to(x.dtype), weight_grad, None
