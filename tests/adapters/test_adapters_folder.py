"""Adapter folders: PEFT reads ours and we read PEFT's, for every task and both model types; each knows its base."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification
from glm_train.adapters.base import fingerprint
from glm_train.adapters.folder import (
    is_adapter_folder,
    load_adapter,
    read_adapter_base,
    read_adapter_config,
    save_adapter,
)
from glm_train.adapters.lora import LoraSettings, add_adapter
from glm_train.errors import CheckpointError
from support.adapted import adapted, ids, peft_model, peft_trained
from support.reference import assert_close, pair
from support.tiny_heads import make

TASKS = {"causal": "CAUSAL_LM", "sequence": "SEQ_CLS", "token": "TOKEN_CLS"}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora-pissa": {"rslora": True, "init": "pissa"},
    "dora": {"dora": True},
    "olora-dora": {"init": "olora", "dora": True},
    "few": {"targets": ("q_proj", "layers.1.mlp.down_proj"), "alpha": 12.5},
    "tokens": {"new_tokens": (11, 40)},
    "whole": {"modules_to_save": ("embed_tokens", "norm")},
    "final-norm": {"modules_to_save": ("model.norm",)},
}
OF_CHAT: dict[str, dict[str, Any]] = {
    "head": {"targets": ("all-linear", "lm_head")},
    "whole-head": {"modules_to_save": ("lm_head",)},
}


@pytest.mark.parametrize("variant", ["glm", "glm4"])
@pytest.mark.parametrize("head", TASKS)
def test_peft_reads_ours(head: str, variant: str, tmp_path: Path) -> None:
    _both_read_ours(variant, head, {}, tmp_path)


@pytest.mark.parametrize("head", ["causal", "token"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_every_kind_of_ours(kind: str, head: str, tmp_path: Path) -> None:
    _both_read_ours("glm4" if head == "token" else "glm", head, KINDS[kind], tmp_path)


@pytest.mark.parametrize("kind", OF_CHAT)
def test_peft_reads_an_adapted_head(kind: str, tmp_path: Path) -> None:
    _both_read_ours("glm4", "causal", OF_CHAT[kind], tmp_path)


@pytest.mark.parametrize("kind", ["plain", "tokens", "whole"])
def test_peft_reads_an_adapter_of_a_tied_model(kind: str, tmp_path: Path) -> None:
    _both_read_ours("glm-edge", "causal", KINDS[kind], tmp_path)


def _both_read_ours(variant: str, head: str, settings: dict[str, Any], folder: Path) -> None:
    ours, reference = pair(variant, head=head)
    base = copy.deepcopy(ours)
    adapted(ours, **settings)
    save_adapter(ours, folder, "")
    expected = ours(ids(vocab=97)).logits
    assert (expected - base(ids(vocab=97)).logits).abs().max() > 0.05
    assert_close(peft_model(reference, folder)(ids(vocab=97)).logits, expected)
    load_adapter(base, folder)
    assert_close(base(ids(vocab=97)).logits, expected)


@pytest.mark.parametrize("variant", ["glm", "glm4"])
@pytest.mark.parametrize("head", TASKS)
def test_we_read_pefts(head: str, variant: str, tmp_path: Path) -> None:
    _we_read_theirs(variant, head, {"lora_alpha": 16}, tmp_path)


@pytest.mark.parametrize("head", ["causal", "sequence"])
@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "use_rslora": True},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {"trainable_token_indices": [11, 40]},
        {"r": 2, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"mlp.down_proj": 5}},
    ],
    ids=["dora", "olora", "pissa", "tokens", "patterns"],
)
def test_we_read_every_kind_of_pefts(settings: dict[str, Any], head: str, tmp_path: Path) -> None:
    _we_read_theirs("glm" if head == "sequence" else "glm4", head, settings, tmp_path)


def _we_read_theirs(variant: str, head: str, settings: dict[str, Any], folder: Path) -> None:
    ours, reference = pair(variant, head=head)
    trained = peft_trained(reference, folder, TASKS[head], **settings)
    before = ours(ids(vocab=97)).logits
    load_adapter(ours, folder)
    expected = trained(ids(vocab=97)).logits
    assert_close(ours(ids(vocab=97)).logits, expected)
    assert (expected - before).abs().max() > 0.05


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["lm_head", "embed_tokens"]},
        {"trainable_token_indices": {"embed_tokens": [11, 40], "lm_head": [11, 40]}},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": r".*layers\.[02]\.mlp\.(gate_up|down)_proj"},
        {"target_modules": "all-linear"},
    ],
    ids=["whole", "tokens", "head", "regex", "all-linear"],
)
def test_we_read_pefts_adapters_of_a_language_model(settings: dict[str, Any], tmp_path: Path) -> None:
    ours, reference = pair("glm4")
    trained = peft_trained(reference, tmp_path, "CAUSAL_LM", **settings)
    load_adapter(ours, tmp_path)
    assert_close(ours(ids(vocab=97)).logits, trained(ids(vocab=97)).logits)


def test_an_adapter_that_was_loaded_is_saved_as_it_was(tmp_path: Path) -> None:
    ours, reference = pair("glm")
    patterns = {"r": 2, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"mlp.down_proj": 5}}
    peft_trained(reference, tmp_path / "theirs", "CAUSAL_LM", **patterns)
    load_adapter(ours, tmp_path / "theirs")
    save_adapter(ours, tmp_path / "ours", "base")
    again, other = pair("glm")
    load_adapter(again, tmp_path / "ours")
    assert_close(again(ids(vocab=97)).logits, ours(ids(vocab=97)).logits)
    assert_close(peft_model(other, tmp_path / "ours")(ids(vocab=97)).logits, ours(ids(vocab=97)).logits)


def test_the_files_are_the_same_every_time_and_say_what_peft_needs(tmp_path: Path) -> None:
    for name in "ab":
        save_adapter(adapted(make(), rslora=True), tmp_path / name, "org/base")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["adapter_base.json", "adapter_config.json", "adapter_model.safetensors"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "r": 4,
        "lora_alpha": 16,
        "use_rslora": True,
        "target_modules": ["down_proj", "gate_up_proj", "k_proj", "o_proj", "q_proj", "v_proj"],
    }
    assert {key: config[key] for key in expected} == expected
    assert is_adapter_folder(tmp_path / "a")
    assert not is_adapter_folder(tmp_path)
    assert not is_adapter_folder(tmp_path / "nothing")
    assert read_adapter_config(tmp_path / "a").r == 4


def test_a_folder_with_an_adapter_is_replaced_only_on_purpose(tmp_path: Path) -> None:
    model = adapted(make())
    (tmp_path / "tokenizer.json").write_text("{}")
    save_adapter(model, tmp_path, "x")
    with pytest.raises(CheckpointError, match="already holds an adapter"):
        save_adapter(model, tmp_path, "x")
    save_adapter(model, tmp_path, "y", overwrite=True)
    assert read_adapter_config(tmp_path).base_name == "y"
    assert len(list(tmp_path.iterdir())) == 4


def test_an_adapter_remembers_its_base_and_refuses_another(tmp_path: Path) -> None:
    model = make()
    base = fingerprint(model)
    save_adapter(adapted(model), tmp_path, "org/base")
    remembered = read_adapter_base(tmp_path)
    assert remembered is not None
    assert (remembered.name, remembered.fingerprint) == ("org/base", base)
    assert remembered.architecture == "GlmForCausalLM"
    other = make()
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight.add_(0.01)
    before = other(ids()).logits
    with pytest.raises(CheckpointError, match=re.escape(f"trained on org/base (fingerprint {base[:12]})")):
        load_adapter(other, tmp_path)
    assert torch.equal(other(ids()).logits, before)
    load_adapter(other, tmp_path, other_base=True)


def test_a_fingerprint_does_not_depend_on_dtype_and_head(tmp_path: Path) -> None:
    narrow = make().to(torch.bfloat16)
    print_ = fingerprint(narrow)
    assert fingerprint(copy.deepcopy(narrow).float()) == print_
    with torch.no_grad():
        narrow.lm_head.weight.zero_()
    assert fingerprint(narrow) == print_
    with torch.no_grad():
        narrow.model.norm.weight.mul_(1.5)
    assert fingerprint(narrow) != print_


def test_a_merged_model_is_a_base_of_its_own(tmp_path: Path) -> None:
    from glm_train.adapters.merge import merge

    model = adapted(make())
    save_adapter(model, tmp_path, "x")
    merge(model)
    with pytest.raises(CheckpointError, match="belongs to another base"):
        load_adapter(model, tmp_path)


def test_a_classifiers_labels_are_remembered(tmp_path: Path) -> None:
    labels = {0: "O", 1: "B-LOC", 2: "I-LOC"}
    model = adapted(make(GlmForTokenClassification, id2label=labels, bidirectional=True))
    save_adapter(model, tmp_path, "x")
    remembered = read_adapter_base(tmp_path)
    assert remembered is not None
    again = make(GlmForTokenClassification, **remembered.config_changes)
    assert again.config.id2label == labels
    assert again.config.bidirectional
    load_adapter(again, tmp_path)
    assert torch.equal(again(ids()).logits, model(ids()).logits)


def test_an_adapter_of_another_task_is_refused(tmp_path: Path) -> None:
    save_adapter(adapted(make()), tmp_path, "x")
    with pytest.raises(CheckpointError, match="an adapter for CAUSAL_LM; GlmForSequenceClassification needs"):
        load_adapter(make(GlmForSequenceClassification), tmp_path)


def test_a_model_with_an_adapter_takes_no_second_one(tmp_path: Path) -> None:
    model = adapted(make())
    save_adapter(model, tmp_path, "x")
    with pytest.raises(ValueError, match="has an adapter already"):
        load_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="has no adapter"):
        save_adapter(make(GlmForCausalLM), tmp_path / "b", "x")


def test_a_loaded_adapter_trains_on(tmp_path: Path) -> None:
    first = adapted(make(), dropout=0.25)
    save_adapter(first, tmp_path, "x")
    model = make().train()
    report = load_adapter(model, tmp_path)
    assert report.settings.dropout == 0.25
    assert report.trainable == sum(p.numel() for p in first.parameters() if p.requires_grad)
    fresh = make()
    assert report.adapted == add_adapter(fresh, LoraSettings(r=4)).adapted
    model(ids(), labels=ids()).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_a_model_frozen_for_use_is_saved_whole(tmp_path: Path) -> None:
    model = adapted(make(GlmForSequenceClassification))
    for name in ("trained", "frozen"):
        save_adapter(model, tmp_path / name, "x")
        model.requires_grad_(False)
    files = [tmp_path / name / "adapter_model.safetensors" for name in ("trained", "frozen")]
    assert files[0].read_bytes() == files[1].read_bytes()
