"""`glm-train export`: what it writes and what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train import GlmConfig, GlmForCausalLM
from glm_train.adapters.settings import LoraSettings
from glm_train.cli.main import main
from support.chatglm_folder import original_logits
from support.exported import HEADS, SETTINGS, logits, make_base, make_run
from support.reference import relative

IDS = (torch.arange(24).view(1, 24) * 13 + 6) % 256


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer_folder: Path) -> Path:
    return make_base(tmp_path / "base", tiny_tokenizer_folder)


def exported(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["export", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_full_run_keeps_every_bit(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = make_run(tmp_path / "run", base, "chat")
    printed = exported(capsys, run, tmp_path / "out")
    for words in (
        f"out: the model of {run} (chat, Hugging Face layout)",
        "model.safetensors",
        "217.20 kB",
        "25 tensors, float32",
        "the logits differ by 0 at most, 0 of the greatest",
        "0.0005 is allowed",
        "the greatest logit is the same at 49 of 49 positions",
    ):
        assert words in printed
    for name in ("model.safetensors", "generation_config.json", "tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "model" / name).read_bytes()
    assert GlmConfig.from_pretrained(tmp_path / "out") == GlmConfig.from_pretrained(run / "model")


def test_a_merged_run_in_bf16(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    printed = exported(capsys, run, tmp_path / "out", "--dtype", "bf16", "--prompt", "Hello")
    for words in (
        "25 tensors, bfloat16, 12 of them changed by the adapter",
        f"base      {base}",
        "0.05 is allowed",
        "the adapter itself changes them by",
    ):
        assert words in printed
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert GlmConfig.from_pretrained(tmp_path / "out").dtype == "bfloat16"
    found = GlmForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert 0 < relative(logits(found, IDS), logits(model, IDS)) < 0.05


def test_a_merge_that_rounding_swallows_is_told(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = LoraSettings(r=1, alpha=1e-3, targets=("o_proj",))
    run, _ = make_run(tmp_path / "run", base, "chat", adapter=weak)
    assert "rounding takes away" in exported(capsys, run, tmp_path / "out", "--dtype", "bf16")
    assert "rounding takes away" not in exported(capsys, run, tmp_path / "adapter", "--adapter")


def test_the_original_layout(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    printed = exported(capsys, run, tmp_path / "out", "--layout", "chatglm")
    assert "original (chatglm) layout" in printed
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "chatglm"
    assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())
    assert relative(original_logits(tmp_path / "out", IDS), logits(model, IDS)) < 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out", "run"]


@pytest.mark.parametrize("settings", [None, SETTINGS], ids=["full", "lora"])
@pytest.mark.parametrize("task", ["sequence_classification", "token_classification"])
def test_a_trained_head_keeps_its_bits_and_labels(
    tmp_path: Path, tiny_tokenizer_folder: Path, capsys: pytest.CaptureFixture[str], task: str, settings: Any
) -> None:
    base = make_base(tmp_path / "narrow", tiny_tokenizer_folder, dtype=torch.bfloat16)
    run, model = make_run(tmp_path / "run", base, task, adapter=settings)
    printed = exported(capsys, run, tmp_path / "out")
    assert "positions" in printed
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in model.state_dict().items():
        if name.startswith("score."):
            assert torch.equal(found[name], tensor)
    assert "lm_head.weight" not in found
    assert GlmConfig.from_pretrained(tmp_path / "out").id2label == HEADS[task]["id2label"]
    assert not (tmp_path / "out" / "generation_config.json").exists()


def test_an_adapter_is_copied_byte_for_byte(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    printed = exported(capsys, run, tmp_path / "out", "--adapter")
    assert "the adapter of" in printed
    assert "the logits differ by 0 at most" in printed
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_base.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "model" / name).read_bytes()
    assert "12 of them changed" in exported(capsys, tmp_path / "out", tmp_path / "merged")


def test_vllm_is_warned_of_where_it_loads_no_such_adapter(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = make_run(tmp_path / "run", base, "token_classification", adapter=LoraSettings(r=2, dora=True))
    assert main(["export", str(run), str(tmp_path / "out"), "--adapter"]) == 0
    error = capsys.readouterr().err
    assert "vLLM loads no adapter with modules trained whole (score) and DoRA" in error


def test_a_base_of_two_dtypes(
    tmp_path: Path, tiny_tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, dtype=torch.bfloat16)
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].float()
    save_file(tensors, base / "model.safetensors")
    run, _ = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    assert "0.05 is allowed" in exported(capsys, run, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in tensors.items()}


def test_the_documentation_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    offered = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in page.splitlines() if line.startswith("| `--"))
    assert offered == set(re.findall(r"--[a-z][a-z-]+", table.replace("with `--adapter`", "")))
