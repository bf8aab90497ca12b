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


def test_nothing_trainable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        parameter_groups(_Model().requires_grad_(False), 0.1)
