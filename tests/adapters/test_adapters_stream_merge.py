"""An adapter in its file gives the numbers of `load_adapter` and the bits of `merge`, without a model in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.adapters.agreement import same_tensors
from glm_train.adapters.folder import load_adapter
from glm_train.adapters.layerwise import output_of
from glm_train.adapters.merge import merge
from glm_train.adapters.opened import Opened, base_of, config_of, open_files
from glm_train.adapters.settings import LoraSettings
from glm_train.build_model import MODELS
from glm_train.checkpoint.weights import save_weights
from glm_train.convert import convert
from glm_train.errors import CheckFailed, CheckpointError
from support.exported import HEADS, SETTINGS, TASKS, logits, make_base, make_run
from support.reference import relative

IDS = (torch.arange(24).view(1, 24) * 13 + 6) % 256
KINDS: dict[str, LoraSettings] = {
    "lora": SETTINGS,
    "rslora": LoraSettings(r=3, alpha=5, rslora=True, targets=("q_proj", "down_proj")),
    "dora": LoraSettings(r=4, dora=True),
    "pissa": LoraSettings(r=4, init="pissa"),
    "head": LoraSettings(r=4, targets=("k_proj", "lm_head")),
    "whole": LoraSettings(r=4, modules_to_save=("embed_tokens", "norm", "lm_head")),
    "tokens": LoraSettings(r=4, new_tokens=(300, 301)),
}


def opened(run: Path, task: str) -> Opened:
    folder = run / "model"
    base = base_of(folder)
    return open_files(MODELS[task], config_of(folder, base), folder, base)


def reloaded(run: Path, base: Path, task: str, dtype: torch.dtype) -> Any:
    model = MODELS[task].from_pretrained(base, dtype=dtype, **HEADS[task])
    load_adapter(model, run / "model")
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_merged_bits_are_those_of_merge(
    tmp_path: Path, tiny_tokenizer_folder: Path, kind: str, dtype: torch.dtype
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, dtype=dtype)
    run, _ = make_run(tmp_path / "run", base, "chat", adapter=KINDS[kind])
    expected = merge(reloaded(run, base, "chat", dtype)).state_dict()
    found = {name: tensor.make() for name, tensor in opened(run, "chat").merged_state(None).items()}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype == dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
def test_run_beside_its_base_it_answers_as_when_loaded(
    tmp_path: Path, tiny_tokenizer_folder: Path, task: str, kind: str
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, model_type="glm4")
    run, _ = make_run(tmp_path / "run", base, task, adapter=KINDS[kind])
    files, expected = opened(run, task), logits(reloaded(run, base, task, torch.float32), IDS)
    adapter = files.adapter
    assert adapter is not None
    found = output_of(files.model, IDS, lambda n, t: adapter.replaced(n, t).float(), adapter.beside)
    assert relative(found, expected) < 1e-6
    assert relative(output_of(files.model, IDS, lambda n, t: adapter.replaced(n, t).float()), expected) > 1e-2


def test_a_tied_base_has_one_matrix(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, tie_word_embeddings=True)
    for kind in ("lora", "tokens"):
        run, model = make_run(tmp_path / kind, base, "chat", adapter=KINDS[kind])
        files = opened(run, "chat")
        state = files.merged_state(None)
        assert "lm_head.weight" not in state
        save_weights(state, tmp_path / f"{kind}-out")
        same_tensors(state, tmp_path / f"{kind}-out")
        expected = logits(model, IDS)
        adapter = files.adapter
        assert adapter is not None
        found = output_of(files.model, IDS, lambda n, t, a=adapter: a.merged(n, t, torch.float32))
        assert relative(found, expected) < 1e-5


def test_a_base_in_the_original_layout(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    folder = make_base(tmp_path / "hf", tiny_tokenizer_folder)
    convert(folder, tmp_path / "base")
    run, _ = make_run(tmp_path / "run", tmp_path / "base", "chat", adapter=SETTINGS)
    state = opened(run, "chat").merged_state(None)
    expected = merge(reloaded(run, tmp_path / "base", "chat", torch.float32)).state_dict()
    assert all(torch.equal(state[name].make(), tensor) for name, tensor in expected.items())


def test_the_trained_head_keeps_its_bits_on_a_16_bit_base(
    tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, dtype=torch.bfloat16)
    run, model = make_run(tmp_path / "run", base, "token_classification", adapter=SETTINGS)
    state = opened(run, "token_classification").merged_state(None)
    for name in ("score.weight", "score.bias"):
        assert torch.equal(state[name].make(), model.state_dict()[name])
    assert state["model.norm.weight"].dtype == torch.bfloat16
    assert (
        opened(run, "token_classification").merged_state(torch.bfloat16)["score.bias"].dtype == torch.bfloat16
    )


def test_another_base_is_refused(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder)
    run, _ = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    model = MODELS["chat"].from_pretrained(base)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    model.save_pretrained(base, overwrite=True)
    with pytest.raises(CheckpointError, match="was trained on another model than"):
        opened(run, "chat")


def test_tensors_that_are_missing_too_many_or_changed_are_found(
    tmp_path: Path, tiny_tokenizer_folder: Path
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder)
    state = open_files(MODELS["chat"], config_of(base, base), base, base).merged_state(None)
    same_tensors(state, base)
    with pytest.raises(CheckFailed, match=r"1 tensor\(s\) are missing or too many, such as lm_head.weight"):
        same_tensors({k: v for k, v in state.items() if k != "lm_head.weight"}, base)
    other = open_files(MODELS["chat"], config_of(base, base), base, base).merged_state(torch.bfloat16)
    with pytest.raises(CheckFailed, match=r"tensor model.norm.weight was written with other values"):
        same_tensors({**state, "model.norm.weight": other["model.norm.weight"]}, base)
