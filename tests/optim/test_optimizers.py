"""The optimizers by name, against the update rule written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glm_train.errors import ConfigError
from glm_train.optim.groups import parameter_groups
from glm_train.optim.optimizers import build_optimizer

LR, DECAY, BETAS, EPS = 0.01, 0.1, (0.9, 0.95), 1e-8


def test_adamw_is_its_formula() -> None:
    """w -= lr * decay * w;  w -= lr * m_hat / (sqrt(v_hat) + eps), decay on the matrix and not on the bias."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    optimizer = build_optimizer("adamw", parameter_groups(model, DECAY), lr=LR, betas=BETAS, eps=EPS)
    for step in range(1, 4):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            gradient = parameter.grad.double()
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient**2
            expected[name] *= 1 - LR * (DECAY if name == "weight" else 0.0)
            m_hat = first[name] / (1 - BETAS[0] ** step)
            v_hat = second[name] / (1 - BETAS[1] ** step)
            expected[name] -= LR * m_hat / (v_hat.sqrt() + EPS)
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-6, atol=1e-7)


def test_adamw_is_the_fused_form() -> None:
    optimizer = build_optimizer("adamw", parameter_groups(nn.Linear(3, 2), 0.0), lr=LR, betas=BETAS, eps=EPS)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"optim\.name: unknown optimizer 'adamv'.*Did you mean 'adamw'"):
        build_optimizer("adamv", parameter_groups(nn.Linear(3, 2), 0.0), lr=LR, betas=BETAS, eps=EPS)
