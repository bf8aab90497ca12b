"""Which parameters an optimizer gets, and which of them decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glm_train.errors import ConfigError
from glm_train.optim.groups import parameter_groups


class _Model(nn.Module):
    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


def _names(model: nn.Module, weight_decay: float = 0.1) -> dict[float, list[str]]:
    groups = parameter_groups(model, weight_decay)
    return {group["weight_decay"]: [name for name, _ in group["params"]] for group in groups}


def test_matrices_decay_and_vectors_and_embeddings_do_not() -> None:
    assert _names(_Model()) == {
        0.1: ["proj.weight", "head.weight"],
        0.0: ["embed.weight", "proj.bias", "norm.weight", "norm.bias"],
    }


def test_a_tied_head_is_the_embedding_and_comes_once() -> None:
    assert _names(_Model(tied=True)) == {
        0.1: ["proj.weight"],
        0.0: ["embed.weight", "proj.bias", "norm.weight", "norm.bias"],
    }


def test_frozen_parameters_are_left_out_and_so_are_empty_groups() -> None:
    model = _Model().requires_grad_(False)
    model.proj.weight.requires_grad_(True)
    assert _names(model) == {0.1: ["proj.weight"]}


def test_an_optimizer_takes_the_groups_and_keeps_the_names() -> None:
    optimizer = torch.optim.AdamW(parameter_groups(_Model(), 0.1), lr=0.1)
    saved = optimizer.state_dict()["param_groups"]
    assert [group["param_names"] for group in saved] == list(_names(_Model()).values())
    assert [group["weight_decay"] for group in saved] == [0.1, 0.0]


class _Factored(nn.Module):
    """Names as PEFT gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 4, bias=False)})
        self.trainable_tokens_delta = nn.Parameter(torch.ones(2, 4))


def test_factors_b_have_a_learning_rate_of_their_own_where_one_is_asked_for() -> None:
    module = nn.Sequential(_Factored())
    plain = parameter_groups(module, 0.1)
    assert [[name for name, _ in group["params"]] for group in plain] == [
        ["0.lora_A.default.weight", "0.lora_B.default.weight"],
        ["0.trainable_tokens_delta"],
    ]
    assert not any("lr_scale" in group for group in plain)
    *others, factors = parameter_groups(module, 0.1, lr_ratio_b=16)
    assert [name for name, _ in factors["params"]] == ["0.lora_B.default.weight"]
    assert (factors["lr_scale"], factors["weight_decay"]) == (16.0, 0.1)
    assert [name for group in others for name, _ in group["params"]] == [
        "0.lora_A.default.weight",
        "0.trainable_tokens_delta",
    ]
    optimizer = torch.optim.AdamW([*others, factors], lr=0.1)
    assert [group.get("lr_scale", 1) for group in optimizer.param_groups] == [1, 1, 16.0]


def test_a_ratio_without_an_adapter_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"adapter\.lr_ratio has no effect"):
        parameter_groups(_Model(), 0.1, lr_ratio_b=16)


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        parameter_groups(_Model().requires_grad_(False), 0.1)
