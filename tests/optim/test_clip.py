"""Clipping by the global norm, and the refusal of steps that are no numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from glm_train.optim.clip import NonFiniteError, clip_by_global_norm, refuse_non_finite


def _parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient or [0.0])))
        parameter.grad = None if gradient is None else torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def test_a_large_gradient_is_scaled_as_one_vector() -> None:
    parameters = _parameters([3.0, 0.0], None, [0.0, 4.0])
    assert clip_by_global_norm(parameters, 1.0).item() == 5.0
    assert parameters[0].grad.tolist() == pytest.approx([0.6, 0.0])
    assert parameters[2].grad.tolist() == pytest.approx([0.0, 0.8])


@pytest.mark.parametrize("max_norm", [5.0, 7.0, None])
def test_a_small_gradient_and_no_limit_change_nothing(max_norm: float | None) -> None:
    parameters = _parameters([3.0, 0.0], [0.0, 4.0])
    assert clip_by_global_norm(parameters, max_norm).item() == 5.0
    assert [p.grad.tolist() for p in parameters] == [[3.0, 0.0], [0.0, 4.0]]


def test_zero_gradients_and_none_have_norm_zero() -> None:
    assert clip_by_global_norm(_parameters([0.0, 0.0]), 1.0).item() == 0.0
    assert clip_by_global_norm(_parameters(None), 1.0).item() == 0.0


def test_the_same_parameters_as_torchs_own_clipping() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(50, 20), nn.Linear(50, 20)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    norm = clip_by_global_norm(ours.parameters(), 0.5)
    assert norm.item() == pytest.approx(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_non_finite_step_is_refused_with_its_documents(bad: float, where: str) -> None:
    norm = clip_by_global_norm(_parameters([1.0], [bad if where == "gradient" else 1.0]), 1.0)
    loss = torch.tensor(bad if where == "loss" else 2.0)
    with pytest.raises(NonFiniteError, match=r"step 7: .* not updated\.") as error:
        refuse_non_finite(loss, norm, step=7, documents=[11, 12])
    assert error.value.documents == (11, 12)


def test_a_finite_step_passes() -> None:
    refuse_non_finite(torch.tensor(1e30), torch.tensor(0.0), step=1, documents=[])
