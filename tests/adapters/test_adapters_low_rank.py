"""The one autograd function of an adapted layer against the textbook form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glm_train.adapters import low_rank
from glm_train.adapters.low_rank import adapted_linear, row_lengths


def _operands(dtype: torch.dtype, factors: torch.dtype | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 6), torch.randn(7, 6), torch.randn(7)
    a, b = torch.randn(3, 6), torch.randn(7, 3)
    return [*(t.to(dtype) for t in (x, weight, bias)), *(t.to(factors or dtype) for t in (a, b))]


@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_gradients_are_those_of_finite_differences(drop: float) -> None:
    x, weight, bias, a, b = _operands(torch.float64)
    for tensor in (x, a, b):
        tensor.requires_grad_(True)

    def run(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same mask every time
        return adapted_linear(x, weight, bias, a, b, 1.7, drop)

    torch.autograd.gradcheck(run, (x, a, b))


@pytest.mark.parametrize("with_bias", [True, False])
def test_equals_three_linear_layers(with_bias: bool) -> None:
    x, weight, bias, a, b = _operands(torch.float32)
    y = adapted_linear(x, weight, bias if with_bias else None, a, b, 0.5, 0.0)
    expected = x @ weight.T + 0.5 * (x @ a.T) @ b.T + (bias if with_bias else 0)
    torch.testing.assert_close(y, expected)
    with torch.no_grad():
        torch.testing.assert_close(
            adapted_linear(x, weight, bias if with_bias else None, a, b, 0.5, 0), expected
        )


def test_a_bf16_base_keeps_its_dtype_and_the_change_is_added_in_fp32() -> None:
    x, weight, bias, a, b = _operands(torch.bfloat16, torch.float32)
    for tensor in (x, a, b):
        tensor.requires_grad_(True)
    y = adapted_linear(x, weight, bias, a, b, 0.5, 0.0)
    frozen = torch.nn.functional.linear(x, weight, bias)
    expected = (frozen.float() + 0.5 * (x.float() @ a.T) @ b.T).bfloat16()
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    y.float().sum().backward()
    assert (x.grad.dtype, a.grad.dtype, b.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)  # type: ignore


def test_under_autocast_all_products_are_in_its_dtype() -> None:
    x, weight, bias, a, b = _operands(torch.float32)
    a.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        y = adapted_linear(x, weight, bias, a, b, 0.5, 0.0)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert a.grad is not None
    assert a.grad.dtype == torch.float32


def test_dropout_keeps_the_mean_and_drops_the_asked_share() -> None:
    torch.manual_seed(0)
    x, share = torch.ones(400, 500), 0.25
    mask, kept = low_rank._kept(x, share)
    assert kept == 0.75
    assert abs(mask.float().mean().item() - 0.75) < 4 * (0.25 * 0.75 / mask.numel()) ** 0.5
    flat = mask.flatten().float() - 0.75
    neighbours = (flat[:-1] * flat[1:]).mean().item()  # four decisions of one random number are independent
    assert abs(neighbours) < 4 * 0.25 * 0.75 / mask.numel() ** 0.5
    weight, a, b = torch.zeros(1, 500), torch.ones(1, 500) / 500, torch.ones(1, 1)
    y = adapted_linear(x, weight, None, a, b, 1.0, share)
    assert abs(y.mean().item() - 1) < 0.01
    assert y.std().item() > 0.01


def test_nothing_is_kept_for_the_frozen_weight() -> None:
    """Kept: x, W, A and B themselves, and (tokens, rank). No copy of x, no (tokens, outputs)."""
    x, weight, bias, a, b = _operands(torch.float32)
    for tensor in (x, a, b):
        tensor.requires_grad_(True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        adapted_linear(x, weight, bias, a, b, 0.5, 0.0)
    own = {t.data_ptr() for t in (x, weight, a, b)}
    extra = [tuple(t.shape) for t in kept if t.data_ptr() not in own]
    assert extra == [(10, 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_row_lengths_are_those_of_the_sum(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "row_tiles", lambda weight: [slice(0, 4), slice(4, 7)])
    _, weight, _, a, b = _operands(dtype, torch.float32)
    torch.testing.assert_close(row_lengths(weight, a, b, 0.3), (weight.float() + 0.3 * b @ a).norm(dim=1))
