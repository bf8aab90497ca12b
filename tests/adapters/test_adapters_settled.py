"""A model that is only used: the adapter goes into an fp32 base, and beside a narrower one is computed once."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmForCausalLM, GlmForTokenClassification, GlmTokenizer
from glm_train.adapters import layers
from glm_train.adapters.base_file import BASE_NAME
from glm_train.adapters.folder import load_adapter, save_adapter
from glm_train.adapters.merge import settle
from glm_train.adapters.record import has_adapter
from glm_train.errors import CheckpointError
from glm_train.trained_model import load_trained
from support.adapted import adapted, ids
from support.reference import relative
from support.tiny_heads import make

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "dora": {"dora": True},
    "dora-pissa": {"dora": True, "init": "pissa"},
    "tokens": {"new_tokens": (11, 40)},
}


@torch.no_grad()
def _logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=ids()).logits


@pytest.mark.parametrize("kind", KINDS)
def test_in_fp32_the_base_takes_the_adapter(kind: str) -> None:
    model = adapted(make(), **KINDS[kind])
    expected = _logits(model)
    settle(model)
    assert not has_adapter(model)
    assert relative(_logits(model), expected) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_is_not_rounded(kind: str) -> None:
    model = adapted(make().to(torch.bfloat16), **KINDS[kind])
    base = {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    expected = _logits(model)
    settle(model)
    assert torch.equal(_logits(model), expected)
    assert base
    assert all(torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base)


def test_row_lengths_are_computed_once_until_training(monkeypatch: pytest.MonkeyPatch) -> None:
    model = settle(adapted(make().to(torch.bfloat16), dora=True))
    calls = []
    own = layers.row_lengths

    def counted(*given: Any) -> torch.Tensor:
        calls.append(1)
        return own(*given)

    monkeypatch.setattr(layers, "row_lengths", counted)
    before = _logits(model)
    assert not calls
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(3)
    after = _logits(model)
    assert calls
    assert not torch.equal(before, after)


def _left_by_a_run(folder: Path, base: Path, kind: type, tokenizer: GlmTokenizer, **changes: Any) -> Any:
    model = adapted(kind.from_pretrained(base, **changes), dora=True)  # type: ignore[attr-defined]
    save_adapter(model, folder, str(base))
    tokenizer.save_pretrained(folder)
    return model


def test_a_loaded_adapter_is_in_its_base_and_its_head_is_not_called_new(
    tmp_path: Path, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    labels = {0: "O", 1: "B-X", 2: "I-X"}
    model = _left_by_a_run(tmp_path, model_folder, GlmForTokenClassification, tokenizer, id2label=labels)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loaded: Any = load_trained(str(tmp_path)).model
    assert not caplog.records
    assert loaded.new_parameters == []
    assert not has_adapter(loaded)
    assert relative(_logits(loaded), _logits(model)) <= 1e-5
    GlmForTokenClassification.from_pretrained(model_folder, id2label=labels)
    assert "holds no classification head" in caplog.text  # it is said again where it is true


def test_a_base_with_another_head_is_another_base(tmp_path: Path, model_folder: Path) -> None:
    """Same decoder, other `lm_head`: the answers would be others."""
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    base: Any = GlmForCausalLM.from_pretrained(model_folder)
    base.save_pretrained(tmp_path / "base")
    run = tmp_path / "run"
    _left_by_a_run(run, tmp_path / "base", GlmForCausalLM, tokenizer)
    load_adapter(copy.deepcopy(base), run)
    load_adapter(copy.deepcopy(base).to(torch.bfloat16), run)  # the same weights, narrower
    with torch.no_grad():
        base.lm_head.weight.mul_(1.5)
    with pytest.raises(CheckpointError, match="lm_head at hand has other weights"):
        load_adapter(copy.deepcopy(base), run)
    load_adapter(copy.deepcopy(base), run, other_base=True)
    base.save_pretrained(tmp_path / "base", overwrite=True)
    with pytest.raises(CheckpointError, match="belongs to another base"):
        load_trained(str(run))
    from glm_train.export import export

    with pytest.raises(CheckpointError, match="other values in lm_head"):
        export(str(run), tmp_path / "out")


def test_a_moved_base_and_wrong_changes_name_their_place(tmp_path: Path, model_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    run = tmp_path / "run"
    _left_by_a_run(run, model_folder, GlmForCausalLM, tokenizer)
    remembered = json.loads((run / BASE_NAME).read_text())
    for change, said in (
        ({"base_model": str(tmp_path / "gone")}, "write its new place as base_model in adapter_base.json"),
        ({"config_changes": {"rope_theta": "x"}}, r"adapter_base.json: config_changes .* rope_theta"),
    ):
        (run / BASE_NAME).write_text(json.dumps({**remembered, **change}))
        with pytest.raises(CheckpointError, match=said):
            load_trained(str(run))


def test_an_adapter_without_a_tokenizer_has_its_bases(tmp_path: Path, model_folder: Path) -> None:
    """PEFT saves none."""
    save_adapter(adapted(GlmForCausalLM.from_pretrained(model_folder)), tmp_path, str(model_folder))
    (tmp_path / BASE_NAME).unlink()
    expected = GlmTokenizer.from_pretrained(model_folder)("Hello")["input_ids"]
    assert load_trained(str(tmp_path)).tokenizer("Hello")["input_ids"] == expected
