"""Training an adapter here and with PEFT on transformers' model gives the same losses, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.losses.linear_cross_entropy import linear_cross_entropy
from glm_train.optim.groups import parameter_groups
from support.adapted import DECODER
from support.reference import pair

ROWS, TOKENS = 4, 12
SMALL = {"num_hidden_layers": 2, "initializer_range": 0.1}


def _batch(step: int) -> Tensor:
    """One of five batches of random ids: few enough to be learned by heart."""
    return torch.randint(10, 97, (ROWS, TOKENS), generator=torch.Generator().manual_seed(step % 5))


def _packed_loss(model: Any, tokens: Tensor) -> Tensor:
    edges = torch.arange(0, ROWS * TOKENS + 1, TOKENS, dtype=torch.int32)
    keep = torch.tensor([i for i in range(ROWS * TOKENS) if i % TOKENS != TOKENS - 1])
    positions = torch.arange(TOKENS).repeat(ROWS)
    hidden = model.model.packed_hidden(tokens.flatten(), positions, edges, TOKENS, keep)
    targets = tokens.flatten()[keep + 1]
    return linear_cross_entropy(hidden, model.lm_head.weight, targets, scale=1 / len(keep))


def _losses(model: nn.Module, loss: Callable[[Any, Tensor], Tensor], groups: Any, steps: int) -> Tensor:
    for group in groups:
        group["lr"] = 3e-3 * group.get("lr_scale", 1)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    losses = []
    for step in range(steps):
        value = loss(model, _batch(step))
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.detach())
    return torch.stack(losses)


def _pefts(reference: nn.Module, **settings: Any) -> Any:
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=DECODER, **settings)
        return peft.get_peft_model(reference, config).train()  # type: ignore[arg-type]


def _copy_adapter(source: Any, target: Any) -> None:
    """Give `target` the trained values of `source`, PEFT's model."""
    values = {name.removeprefix("base_model.model."): p for name, p in source.named_parameters()}
    with torch.no_grad():
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(values[name])


def _peft_groups(model: Any, ratio: float) -> list[dict[str, Any]]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain, scaled = ([p for n, p in named if (".lora_B." in n) == is_b] for is_b in (False, True))
    return [{"params": plain}, {"params": scaled, "lr_scale": ratio}]


@pytest.mark.parametrize(
    ("ours", "theirs", "steps", "ratio"),
    [
        ({}, {}, 100, 1.0),
        ({"rslora": True}, {"use_rslora": True}, 30, 4.0),
        ({"dora": True}, {"use_dora": True}, 30, 1.0),
        ({"init": "pissa"}, {"init_lora_weights": "pissa"}, 30, 1.0),
        ({"init": "olora"}, {"init_lora_weights": "olora"}, 30, 1.0),
    ],
    ids=["lora", "rslora-plus", "dora", "pissa", "olora"],
)
def test_the_loss_curve_is_pefts(
    ours: dict[str, Any], theirs: dict[str, Any], steps: int, ratio: float
) -> None:
    model, reference = pair("glm4", **SMALL)
    add_adapter(model.train(), LoraSettings(r=4, alpha=8, **ours))
    pefts = _pefts(reference, **theirs)
    if "init" not in ours:
        _copy_adapter(pefts, model)
    groups = parameter_groups(model, 0.0, lr_ratio_b=ratio)
    mine = _losses(model, _packed_loss, groups, steps)
    expected = _losses(pefts, lambda m, t: m(t, labels=t).loss, _peft_groups(pefts, ratio), steps)
    assert expected[-1] < expected[0] - 0.3  # something was learned
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-4)
