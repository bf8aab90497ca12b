"""The two ways to a chunk's losses and logit gradients, CPU's and accelerators', against fp64."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from glm_train.losses import softmax
from glm_train.losses.softmax import logit_gradients


@pytest.mark.parametrize("spread", [1.0, 20.0, 300.0])
@pytest.mark.parametrize("way", ["fused", "step_by_step"])
def test_both_ways_match_fp64(way: str, spread: float) -> None:
    torch.manual_seed(0)
    hidden_CH, weight_VH = torch.randn(40, 16) * spread / 4, torch.randn(101, 16)
    logits_CV, targets_C1 = hidden_CH @ weight_VH.t(), torch.randint(101, (40, 1))
    exact_CV = logits_CV.double().requires_grad_()
    exact_C = F.cross_entropy(exact_CV, targets_C1[:, 0], reduction="none")
    exact_C.sum().backward()
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2**-8)):
        work_CV = logits_CV.clone()
        if way == "fused":
            losses_C1, sums_C1 = softmax._fused(work_CV, targets_C1, hidden_CH, weight_VH), None
        else:
            losses_C1, sums_C1 = softmax._step_by_step(work_CV, targets_C1)
        grads_CV = logit_gradients(work_CV, sums_C1, targets_C1, dtype)
        torch.testing.assert_close(losses_C1[:, 0].double(), exact_C.detach(), rtol=1e-5, atol=2e-6 * spread)
        assert grads_CV.dtype == dtype
        error = (grads_CV.double() - exact_CV.grad).norm() / exact_CV.grad.norm()
        assert error < bound * max(1.0, spread / 20)


@pytest.mark.parametrize("way", ["fused", "step_by_step"])
def test_a_nearly_certain_target_keeps_its_small_gradient_in_bf16(way: str) -> None:
    """p - 1 = -4.5e-5: subtracted after rounding p to bf16 it would be 0."""
    hidden_CH, weight_VH = torch.eye(1), torch.tensor([[10.0], [0.0]])
    logits_CV, targets_C1 = hidden_CH @ weight_VH.t(), torch.zeros(1, 1, dtype=torch.int64)
    if way == "fused":
        softmax._fused(logits_CV, targets_C1, hidden_CH, weight_VH)
        sums_C1 = None
    else:
        _, sums_C1 = softmax._step_by_step(logits_CV, targets_C1)
    gradient = logit_gradients(logits_CV, sums_C1, targets_C1, torch.bfloat16)[0, 0].item()
    assert gradient == pytest.approx(-4.54e-5, rel=0.01)
