"""What nobody could load is not written, and what has no weights says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train import GlmConfig, GlmForCausalLM, GlmForSequenceClassification, GlmModel
from glm_train.checkpoint.weights import load_weights
from glm_train.cli.main import main
from glm_train.errors import CheckpointError
from support.tiny_models import SHAPE

IDS = torch.randint(6, 90, (2, 5), generator=torch.Generator().manual_seed(0))


def test_a_head_of_another_size_than_the_config_says_is_not_saved(tmp_path: Path) -> None:
    model = GlmForSequenceClassification(GlmConfig(**SHAPE, num_labels=3))
    model.config.num_labels = 7
    with pytest.raises(CheckpointError, match="num_labels is 7, but the head has 3"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_memory_says_what_to_do_and_works_once_filled(tmp_path: Path) -> None:
    original = GlmForCausalLM(GlmConfig(**SHAPE)).eval()
    original.save_pretrained(tmp_path / "m")
    model = GlmForCausalLM.from_pretrained(tmp_path / "m", device="meta")
    for use in (lambda: model(IDS), lambda: model.generate(IDS, max_new_tokens=1)):
        with pytest.raises(ValueError, match="fill it with load_weights"):
            use()
    with pytest.raises(CheckpointError, match="fill it with load_weights"):
        model.save_pretrained(tmp_path / "out")
    load_weights(model, tmp_path / "m", dtype=model.dtype)
    assert torch.equal(model(IDS).logits, original(IDS).logits)


def test_convert_refuses_a_causal_model_without_its_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    GlmForCausalLM(GlmConfig(**SHAPE)).save_pretrained(tmp_path / "m")
    weights = load_file(tmp_path / "m" / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert main(["convert", str(tmp_path / "m"), str(tmp_path / "out")]) == 2
    assert "lm_head.weight" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["MODEL", {"vocab_size": 9}, None])
def test_a_model_is_built_from_a_config_alone(config: object) -> None:
    for kind in (GlmModel, GlmForCausalLM, GlmForSequenceClassification):
        with pytest.raises(TypeError, match=r"expected a glm_train\.GlmConfig"):
            kind(config)  # type: ignore[arg-type]
