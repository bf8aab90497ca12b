"""Merging gives a plain model that answers as the adapted one did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from glm_train import GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification
from glm_train.adapters import low_rank
from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.adapters.merge import merge
from support.adapted import adapted, ids
from support.reference import assert_close
from support.tiny_heads import make

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora-pissa": {"rslora": True, "init": "pissa"},
    "dora": {"dora": True},
    "dora-olora": {"dora": True, "init": "olora"},
    "few": {"targets": ("k_proj",)},
    "tokens": {"new_tokens": (11, 40)},
    "whole": {"modules_to_save": ("embed_tokens", "norm")},
}


@pytest.mark.parametrize("head", [GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification])
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_is_plain_and_answers_the_same(head: type, kind: str, tmp_path: Path) -> None:
    model = adapted(make(head), **KINDS[kind])
    expected = model(ids()).logits
    merged: Any = merge(model)
    assert merged is model
    plain = make(head)
    assert [(n, type(p)) for n, p in merged.named_modules()] == [
        (n, type(p)) for n, p in plain.named_modules()
    ]
    assert list(merged.state_dict()) == list(plain.state_dict())
    assert list(dict(merged.named_buffers())) == list(dict(plain.named_buffers()))
    assert all(p.requires_grad for p in merged.parameters())
    assert_close(merged(ids()).logits, expected)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(head.from_pretrained(tmp_path / "merged")(ids()).logits, expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["plain", "tokens", "whole"])
def test_a_tied_model_stays_tied(kind: str) -> None:
    model = adapted(make(tie_word_embeddings=True), **KINDS[kind])
    expected = model(ids()).logits
    merge(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert_close(model(ids()).logits, expected)


def test_an_adapted_head_is_merged_too() -> None:
    model = adapted(make(), targets=("all-linear", "lm_head"), dora=True)
    expected = model(ids()).logits
    assert_close(merge(model)(ids()).logits, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_stays_bf16_and_is_rounded_once(kind: str) -> None:
    """The sum in fp32, rounded: the merged weight is as near to the exact one as bf16 can be."""
    model = adapted(make().to(torch.bfloat16), **KINDS[kind])
    layer: Any = model.get_submodule("model.layers.1.self_attn.k_proj")
    exact = layer.weight.detach().clone()  # of an adapted layer: what it multiplies by, in fp32
    merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.get_submodule("model.layers.1.self_attn.k_proj").weight, exact.bfloat16())
    assert model(ids()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("head", [GlmForSequenceClassification, GlmForTokenClassification])
def test_a_trained_head_keeps_its_values_beside_a_bf16_base(head: type, tmp_path: Path) -> None:
    model = adapted(make(head, num_labels=3).to(torch.bfloat16))
    trained, expected = model.score.weight.detach().clone(), model(ids()).logits
    merged: Any = merge(model)
    kinds = {name: parameter.dtype for name, parameter in merged.named_parameters()}
    assert {kind for name, kind in kinds.items() if not name.startswith("score.")} == {torch.bfloat16}
    assert trained.dtype == torch.float32
    assert torch.equal(merged.score.weight, trained)
    found = merged(ids()).logits
    assert found.dtype == expected.dtype == torch.float32
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(load_file(tmp_path / "merged" / "model.safetensors")["score.weight"], trained)
    add_adapter(merged, LoraSettings(r=2))
    assert_close(merged(ids()).logits, found)


def test_only_a_few_rows_are_folded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from glm_train.adapters import layers

    sizes: list[int] = []
    original = torch.addmm

    def recorded(base: Any, *rest: Any, **named: Any) -> Any:
        sizes.append(base.numel())
        return original(base, *rest, **named)

    model = adapted(make(), dora=True)
    expected = model(ids()).logits
    monkeypatch.setattr(layers, "row_tiles", lambda w: [slice(i, i + 5) for i in range(0, len(w), 5)])
    monkeypatch.setattr(torch, "addmm", recorded)
    merge(model)
    monkeypatch.undo()
    assert max(sizes) == 5 * 32  # rows and the longest row of the model's layers
    assert_close(model(ids()).logits, expected)
    assert low_rank.row_tiles(torch.empty(3, 2**22)) == [slice(0, 2), slice(2, 4)]


def test_merging_can_be_followed_by_another_adapter() -> None:
    model = merge(adapted(make()))
    before = model(ids()).logits
    add_adapter(model, LoraSettings(r=2, dora=True))
    assert_close(model(ids()).logits, before)


def test_a_model_without_adapter_is_not_merged() -> None:
    with pytest.raises(ValueError, match="has no adapter"):
        merge(make())
