"""What else `from_pretrained` and `save_pretrained` take: changes of the config, the meta device, shard sizes."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import (
    GlmConfig,
    GlmForCausalLM,
    GlmForSequenceClassification,
    GlmForTokenClassification,
    GlmModel,
)
from glm_train.checkpoint.weights import load_weights
from glm_train.errors import CheckpointError, ConfigError
from support.tiny_heads import TINY, make, saved

IDS = torch.tensor([[5, 9, 33, 7, 60, 12, 3], [8, 8, 41, 3, 0, 0, 0]])
CLASSES = (GlmModel, GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


class TestConfigChanges:
    def test_are_those_of_the_config(self, tmp_path: Path) -> None:
        stored = saved(tmp_path)
        changes = {"attention_dropout": 0.1, "rope_theta": 50.0, "use_cache": False}
        model = GlmForCausalLM.from_pretrained(tmp_path, **changes)
        assert {name: getattr(model.config, name) for name in changes} == changes
        assert not torch.allclose(logits(model), logits(stored))
        assert GlmForCausalLM.from_pretrained(tmp_path).config == GlmConfig.from_pretrained(tmp_path)

    @pytest.mark.parametrize("cls", [GlmModel, GlmForSequenceClassification, GlmForTokenClassification])
    def test_bidirectional(self, tmp_path: Path, cls: Any) -> None:
        saved(tmp_path)
        torch.manual_seed(0)
        causal = cls.from_pretrained(tmp_path)
        torch.manual_seed(0)
        both_ways = cls.from_pretrained(tmp_path, bidirectional=True)
        with torch.no_grad():
            assert not torch.allclose(both_ways(IDS)[0], causal(IDS)[0])
        both_ways.save_pretrained(tmp_path / "again")
        assert cls.from_pretrained(tmp_path / "again").config.bidirectional

    def test_problem_type(self, tmp_path: Path) -> None:
        saved(tmp_path)
        model = GlmForSequenceClassification.from_pretrained(
            tmp_path, num_labels=1, problem_type="regression"
        )
        assert model(IDS, labels=torch.tensor([0.5, 2.0])).loss.isfinite()

    def test_unknown_name(self, tmp_path: Path) -> None:
        saved(tmp_path)
        with pytest.raises(ConfigError, match=r"num_label: .*Did you mean 'num_labels'"):
            GlmForSequenceClassification.from_pretrained(tmp_path, num_label=5)

    @pytest.mark.parametrize(
        ("name", "why"),
        [("trust_remote_code", "no code"), ("token", "HF_TOKEN"), ("load_in_8bit", "quantised")],
    )
    def test_arguments_of_transformers_that_are_not_here(self, tmp_path: Path, name: str, why: str) -> None:
        saved(tmp_path)
        with pytest.raises(ConfigError, match=f"^{name}: .*{why}"):
            GlmForCausalLM.from_pretrained(tmp_path, **{name: True})

    def test_of_a_shape_that_the_weights_do_not_have(self, tmp_path: Path) -> None:
        saved(tmp_path)
        with pytest.raises(CheckpointError, match="num_hidden_layers is 1, the weights hold 2 layers"):
            GlmForCausalLM.from_pretrained(tmp_path, num_hidden_layers=1)

    def test_a_config_in_place_of_the_folders(self, tmp_path: Path) -> None:
        saved(tmp_path)
        (tmp_path / "config.json").unlink()
        config = GlmConfig(**TINY, rope_theta=5e6)
        model = GlmForCausalLM.from_pretrained(tmp_path, config=config, attention_dropout=0.2)
        assert (model.config.rope_theta, model.config.attention_dropout) == (5e6, 0.2)
        assert config.attention_dropout == 0.0
        with pytest.raises(TypeError, match=r"expected a glm_train\.GlmConfig, found builtins\.dict"):
            GlmForCausalLM.from_pretrained(tmp_path, config=TINY)  # type: ignore[arg-type]


def test_loading_imports_nothing_to_make_values_that_the_files_hold(tmp_path: Path) -> None:
    """The first `normal_` on the meta device imports sympy and 800 other modules."""
    saved(tmp_path)
    code = (
        "import sys\nfrom glm_train import GlmForCausalLM\nbefore = set(sys.modules)\n"
        f"model = GlmForCausalLM.from_pretrained({str(tmp_path)!r})\n"
        "assert model.lm_head.weight.std() > 0.1\nprint(len(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 30


def owned_bytes() -> int:
    """Memory of this process that is not a file's."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_the_model_and_one_tensor(tmp_path: Path, dtype: str) -> None:
    saved(tmp_path, vocab_size=4096, hidden_size=1024, intermediate_size=2048)
    before, peaks, done = owned_bytes(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(0.0005):
            peaks.append(owned_bytes() - before)

    sampler = threading.Thread(target=sample)
    sampler.start()
    model = GlmForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    done.set()
    sampler.join()
    sizes = [parameter.nbytes for parameter in model.parameters()]
    assert sum(sizes) > 25 * 2**20
    assert max(peaks) <= sum(sizes) + max(sizes) + 4 * 2**20


class TestMeta:
    @pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
    def test_has_everything_but_memory_and_is_filled_later(self, tmp_path: Path, cls: Any) -> None:
        saved(tmp_path)
        (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
        model = cls.from_pretrained(tmp_path, device="meta", dtype="bfloat16")
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert model.generation_config["temperature"] == 0.5
        torch.manual_seed(3)
        new = load_weights(model, tmp_path, dtype=model.dtype)
        assert new == model.new_parameters
        torch.manual_seed(3)
        at_once = cls.from_pretrained(tmp_path, dtype="bfloat16").state_dict()
        state = model.state_dict()
        assert state.keys() == at_once.keys()
        assert all(torch.equal(tensor, at_once[name]) for name, tensor in state.items())

    def test_says_what_does_not_fit_already_there(self, tmp_path: Path) -> None:
        saved(tmp_path, GlmForSequenceClassification)
        with pytest.raises(CheckpointError, match=r"missing in the folder \(1\): lm_head\.weight"):
            GlmForCausalLM.from_pretrained(tmp_path, device="meta")


class TestProperties:
    def test_dtype_and_device(self, tmp_path: Path) -> None:
        saved(tmp_path)
        model = GlmForCausalLM.from_pretrained(tmp_path, dtype="float16")
        assert (model.dtype, model.device) == (torch.float16, torch.device("cpu"))

    @pytest.mark.parametrize("tied", [False, True])
    def test_number_of_parameters_is_transformers(self, tied: bool) -> None:
        from support.reference import transformers_model

        model = make(tie_word_embeddings=tied)
        assert model.num_parameters() == transformers_model(model.config).num_parameters()
        model.model.requires_grad_(False)
        assert model.num_parameters(only_trainable=True) == (0 if tied else 64 * 16)


@pytest.mark.parametrize(
    ("size", "files"), [("1GB", 1), (10**9, 1), ("5KB", 7), ("5 kb", 7), ("4.9KiB", 7), (5000, 7)]
)
def test_shard_sizes_in_transformers_words(tmp_path: Path, size: int | str, files: int) -> None:
    make(GlmForSequenceClassification).save_pretrained(tmp_path, max_shard_size=size)
    assert len(list(tmp_path.glob("*.safetensors"))) == files


@pytest.mark.parametrize("size", ["5", "GB", "5XB", "-5GB", "", True, 1.5])
def test_shard_sizes_that_are_none(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ValueError, match="max_shard_size"):
        make().save_pretrained(tmp_path, max_shard_size=size)
    assert not list(tmp_path.iterdir())
