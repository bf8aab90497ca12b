"""GLM's layers compiled one by one have the gradients of the plain ones, under an adapter too.

torch 2.11 gives wrong ones where the result of an autograd function of ours was changed in place
(pytorch/pytorch#180642); 2.13 does not, so the graphs are searched for such changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from glm_train import GlmConfig, GlmForCausalLM
from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.parallel.parallelize import parallelize
from support.tiny_models import SHAPE


def in_place(graphs: fx.GraphModule) -> set[str]:
    """What a traced forward changes in place, autograd functions' own forwards included; backwards may."""
    found: set[str] = set()
    for name, module in graphs.named_modules():
        if isinstance(module, fx.GraphModule) and "bwd" not in name:
            methods = {str(n.target) for n in module.graph.nodes if n.op == "call_method"}
            found |= {method for method in methods if method.endswith("_") and not method.endswith("__")}
    return found


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """`Module.compile` traces as ever and runs the graph as it is; what it changes in place is here."""
    found: set[str] = set()
    original = nn.Module.compile

    def traced(graphs: fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        del inputs
        found.update(in_place(graphs))
        return graphs.forward

    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend=traced))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("settings", [None, LoraSettings(r=2), LoraSettings(r=2, dora=True)])
@pytest.mark.parametrize("model_type", ["glm", "glm4"])
@pytest.mark.parametrize("activation_checkpointing", ["none", "full"])
def test_compiled_layers_have_the_plain_ones_gradients(
    changed: set[str], model_type: str, activation_checkpointing: str, settings: LoraSettings | None
) -> None:
    torch.manual_seed(0)
    plain = GlmForCausalLM(GlmConfig(**{**SHAPE, "model_type": model_type, "num_hidden_layers": 1})).train()
    if settings is not None:
        add_adapter(plain, settings)
    compiled = copy.deepcopy(plain)
    parallelize(compiled, activation_checkpointing=activation_checkpointing, compile=True)
    ids_BT = torch.randint(0, 64, (2, 9))
    losses = [model(ids_BT, labels=ids_BT).loss for model in (plain, compiled)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, weight), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        if weight.requires_grad:
            torch.testing.assert_close(other.grad, weight.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert not changed & {"mul_", "addmm_"}, changed
