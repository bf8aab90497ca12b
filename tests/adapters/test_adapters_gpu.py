"""Adapters on a GPU, as runs have them: a bf16 or 4-bit base under autocast."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.adapters.quantize import quantize_base
from support.adapted import adapted, ids, perturbed
from support.tiny_heads import make

pytestmark = pytest.mark.gpu
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"init": "pissa"}, {"new_tokens": (11,)}])
def test_a_step_in_bf16_is_near_to_the_same_in_fp32_on_a_cpu(settings: dict[str, Any]) -> None:
    exact = adapted(make(**SHAPE).to(torch.bfloat16).float(), **settings).train()
    exact(ids(), labels=ids()).loss.backward()
    model = adapted(make(**SHAPE).to(torch.bfloat16).cuda(), **settings).train()
    with torch.autocast("cuda", torch.bfloat16):
        model(ids().cuda(), labels=ids().cuda()).loss.backward()
    expected = dict(exact.named_parameters())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None:
            difference = (parameter.grad.cpu() - expected[name].grad).norm()  # type: ignore[operator]
            assert parameter.dtype == torch.float32
            assert difference < 0.1 * expected[name].grad.norm() + 1e-6, name  # type: ignore[union-attr]


def test_dropout_drops_its_share() -> None:
    model: Any = make(**SHAPE).cuda().train()
    add_adapter(model, LoraSettings(r=4, dropout=0.5))
    perturbed(model)
    first, second = (model(ids().cuda()).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(model.eval()(ids().cuda()).logits, model(ids().cuda()).logits)


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason='needs bitsandbytes: pip install "glm-train[qlora]"',
)
def test_a_model_on_the_cpu_is_quantized_onto_the_gpu_and_trains() -> None:
    model: Any = quantize_base(make(**SHAPE).to(torch.bfloat16), device="cuda")
    add_adapter(model, LoraSettings(r=4))
    model.cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(ids().cuda(), labels=ids().cuda()).loss
    loss.backward()
    assert loss.isfinite()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
