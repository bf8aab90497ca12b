"""The frozen base in 4 bits."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmForTokenClassification
from glm_train.adapters.base import fingerprint
from glm_train.adapters.folder import load_adapter, save_adapter
from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.adapters.merge import merge
from glm_train.adapters.quantize import quantize_base, require_quantization
from glm_train.errors import ConfigError
from support.adapted import ids, perturbed
from support.reference import assert_close
from support.tiny_heads import make

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason='needs bitsandbytes: pip install "glm-train[qlora]"',
)
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.2},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "few": {"targets": ("q_proj",), "modules_to_save": ("model.norm",)},
}


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = make()
    with pytest.raises(ConfigError, match=r'pip install "glm-train\[qlora\]"'):
        quantize_base(model)
    with pytest.raises(ConfigError, match="bitsandbytes, which is not installed"):
        require_quantization()
    assert list(model.state_dict()) == list(make().state_dict())


@needs_bitsandbytes
def test_the_decoders_linear_layers_take_half_a_byte_a_number() -> None:
    model: Any = quantize_base(make(GlmForTokenClassification, **SHAPE))
    for name, parameter in model.named_parameters():
        quantized = name.endswith("_proj.weight")
        assert (parameter.dtype == torch.uint8) == quantized, name
        if quantized:
            plain = make(GlmForTokenClassification, **SHAPE).get_parameter(name)
            assert parameter.nbytes == plain.numel() / 2
    report = add_adapter(model, LoraSettings(r=4))
    total = sum(p.numel() for p in make(GlmForTokenClassification, **SHAPE).parameters())
    assert report.total - report.trainable + sum(p.numel() for p in model.score.parameters()) == total
    assert report.lines()[-1].endswith("the frozen base is 4-bit NF4")


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_on_a_4_bit_base_trains_as_on_the_same_numbers_unquantized(
    kind: str, dtype: torch.dtype
) -> None:
    """The reference: a plain model that holds what the 4-bit one stands for."""
    four: Any = quantize_base(make(**SHAPE).to(dtype))
    plain = make(**SHAPE).to(dtype)
    plain.load_state_dict(_dequantized(four))
    for model in (four, plain):
        torch.manual_seed(0)
        perturbed(_with_adapter(model.train(), **KINDS[kind]))
        torch.manual_seed(1)
        model(ids(), labels=ids()).loss.backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in four.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@needs_bitsandbytes
def test_evaluation_does_not_change_the_stored_weights() -> None:
    model: Any = quantize_base(make(**SHAPE).to(torch.bfloat16))
    add_adapter(model, LoraSettings(r=4, targets=("q_proj",)))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model.eval()(ids())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    model.train()(ids(), labels=ids()).loss.backward()


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_merging_gives_a_plain_model_that_answers_the_same(kind: str) -> None:
    model: Any = perturbed(_with_adapter(quantize_base(make(**SHAPE)), **KINDS[kind])).eval()
    expected = model(ids()).logits
    merge(model)
    assert list(model.state_dict()) == list(make(**SHAPE).state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_close(model(ids()).logits, expected)


@needs_bitsandbytes
def test_the_adapter_belongs_to_the_base_and_not_to_its_4_bit_copy(tmp_path: Path) -> None:
    base = make(**SHAPE)
    model: Any = perturbed(_with_adapter(quantize_base(copy.deepcopy(base))))
    save_adapter(model, tmp_path, "base")
    known = fingerprint(base)
    load_adapter(base, tmp_path)
    four: Any = quantize_base(make(**SHAPE))
    load_adapter(four, tmp_path)
    assert torch.equal(four.eval()(ids()).logits, model.eval()(ids()).logits)
    assert four.base_fingerprint == model.base_fingerprint == known


@needs_bitsandbytes
def test_quantizing_comes_before_the_adapter_and_after_the_weights() -> None:
    model = make(**SHAPE)
    add_adapter(model, LoraSettings(r=4))
    with pytest.raises(ValueError, match="quantize the base first"):
        quantize_base(model)
    with pytest.raises(ValueError, match="without weights"):
        quantize_base(make(**SHAPE).to("meta"))


def _with_adapter(model: Any, **settings: Any) -> Any:
    add_adapter(model, LoraSettings(r=4, **settings))
    return model


def _dequantized(model: Any) -> dict[str, torch.Tensor]:
    from glm_train.adapters.quantize import plain_weight

    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name in state:
        if name.endswith("_proj.weight"):
            state[name] = plain_weight(model.get_submodule(name.removesuffix(".weight")))
    return state
