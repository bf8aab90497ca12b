"""The gradients of whole models with an adapter, over random settings, beside those of the textbook form.

In fp32 single ones differ by a ten-thousandth and more, as factors of rank 1 under an attention that adds up to little;
in fp64 nothing does by more than fp64's own rounding: so that is rounding, and no fault of the formulas.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_train import GlmForCausalLM
from glm_train.adapters import layers, low_rank
from glm_train.adapters.lora import LoraSettings, add_adapter
from support.adapted import perturbed
from support.random_configs import random_config

ROUNDING = 1e-10  # of the largest number of a gradient, in fp64


def textbook(
    x: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    a_RI: Tensor,
    b_OR: Tensor,
    scaling: float,
    drop: float,
) -> Tensor:
    """`adapted_linear`, for autograd to find the gradients. It draws the same mask."""
    y = torch.nn.functional.linear(x, weight_OI, bias_O)
    if drop:
        mask_NI, share = low_rank._kept(x.reshape(-1, x.shape[-1]), drop)
        x = x * mask_NI.view(x.shape) / share
    return y + scaling * (x @ a_RI.T) @ b_OR.T


def random_settings(draw: random.Random) -> dict[str, Any]:
    targets = [None, ("q_proj",), ("q_proj", "k_proj"), ("v_proj", "down_proj"), ("gate_up_proj", "o_proj")]
    return {
        "r": draw.choice([1, 1, 2, 3, 4]),
        "alpha": draw.choice([0.5, 1, 16, 64]),
        "dropout": draw.choice([0.0, 0.0, 0.1, 0.5]),
        "targets": draw.choice(targets),
        "rslora": draw.random() < 0.3,
        "dora": draw.random() < 0.3,
        "init": draw.choice(["default", "gaussian", "pissa", "olora"]),
    }


def gradients(model: Any, ids: Tensor, pull: Tensor) -> dict[str, Tensor]:
    """Of the trained parameters."""
    torch.manual_seed(7)  # the same masks every time
    model.zero_grad()
    (model(ids).logits * pull).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def difference(seed: int, dtype: torch.dtype, patched: pytest.MonkeyPatch) -> float:
    """The largest difference between the two forms, as a share of its gradient's largest number."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = GlmForCausalLM(random_config(draw, tie_word_embeddings=False)).train()
    add_adapter(model, LoraSettings(**random_settings(draw)))
    perturbed(model).to(dtype)
    ids = torch.randint(
        0, model.config.vocab_size, (2, draw.randint(2, 20))
    )  # of one token, queries and keys have none
    pull = torch.randn(*ids.shape, model.config.vocab_size, dtype=dtype)
    with patched.context() as context:
        if dtype == torch.float64:
            context.setattr(torch.Tensor, "float", torch.Tensor.double)  # norms compute in fp32
        ours = gradients(model, ids, pull)
        context.setattr(layers, "adapted_linear", textbook)
        theirs = gradients(model, ids, pull)
    assert ours.keys() == theirs.keys()
    assert all(grad.dtype == dtype for grad in ours.values())
    largest = [(ours[n] - grad).abs().max() / grad.abs().max().clamp(min=1e-30) for n, grad in theirs.items()]
    return torch.stack(largest).max().item()


@pytest.mark.parametrize("seed", range(30))
def test_the_gradients_are_those_of_the_textbook(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(seed, torch.float64, monkeypatch) < ROUNDING
