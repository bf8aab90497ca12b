"""GLM's layers compiled one by one have the gradients of the plain ones, whatever torch's compiler does with ours.

torch 2.11 gives wrong ones where a result was changed in place (pytorch/pytorch#180642): 2.13 does not notice.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from glm_train import GlmConfig, GlmForCausalLM
from glm_train.parallel.parallelize import parallelize
from support.tiny_models import SHAPE


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["glm", "glm4"])
@pytest.mark.parametrize("activation_checkpointing", ["none", "full"])
def test_compiled_layers_have_the_plain_ones_gradients(
    monkeypatch: pytest.MonkeyPatch, model_type: str, activation_checkpointing: str
) -> None:
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend="aot_eager"))
    torch.manual_seed(0)
    plain = GlmForCausalLM(GlmConfig(**{**SHAPE, "model_type": model_type, "num_hidden_layers": 1})).train()
    compiled = copy.deepcopy(plain)
    parallelize(compiled, activation_checkpointing=activation_checkpointing, compile=True)
    ids_BT = torch.randint(0, 64, (2, 9))
    losses = [model(ids_BT, labels=ids_BT).loss for model in (plain, compiled)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for (name, weight), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, weight.grad, rtol=1e-4, atol=1e-6, msg=name)
