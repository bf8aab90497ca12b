"""The public models: transformers reads our folders, we read transformers' folders, in both generations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from glm_train import GlmConfig, GlmForCausalLM, GlmModel
from glm_train.checkpoint.index import INDEX_NAME, SINGLE_NAME
from glm_train.errors import CheckpointError
from glm_train.model.generation import stop_ids
from support.tiny_heads import TINY

IDS = torch.tensor([[5, 9, 33, 7, 60, 12, 3]])
both_types = pytest.mark.parametrize("model_type", ["glm", "glm4"])
one_file_or_shards = pytest.mark.parametrize("max_shard_bytes", [10**9, 5000])


def make(model_type: str = "glm", **changes: object) -> GlmForCausalLM:
    torch.manual_seed(0)
    return GlmForCausalLM(GlmConfig(**{**TINY, "model_type": model_type, **changes})).eval()


def edit_config(folder: Path, **changes: object) -> None:
    """Set keys of config.json; None removes one."""
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


@both_types
@one_file_or_shards
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_our_folder(
    tmp_path: Path, model_type: str, max_shard_bytes: int, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM

    ours = make(model_type, tie_word_embeddings=tied)
    ours.save_pretrained(tmp_path, max_shard_bytes=max_shard_bytes)
    assert (tmp_path / INDEX_NAME).exists() == (max_shard_bytes == 5000)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(theirs).__name__ == json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    assert theirs.generation_config.eos_token_id == [0, 1, 2]
    assert theirs.generation_config.pad_token_id == 0
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, ours(IDS).logits, atol=1e-6)


@both_types
@one_file_or_shards
@pytest.mark.parametrize("tied", [False, True])
def test_we_read_transformers_folder_and_write_the_same_bytes(
    tmp_path: Path, model_type: str, max_shard_bytes: int, tied: bool
) -> None:
    from transformers import Glm4Config, Glm4ForCausalLM
    from transformers import GlmConfig as TheirConfig
    from transformers import GlmForCausalLM as TheirModel

    config, model = (Glm4Config, Glm4ForCausalLM) if model_type == "glm4" else (TheirConfig, TheirModel)
    theirs = model(config(**TINY, tie_word_embeddings=tied)).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_bytes)
    ours = GlmForCausalLM.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        assert torch.allclose(theirs(IDS).logits, ours(IDS).logits, atol=1e-6)
    ours.save_pretrained(tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    files = sorted(path.name for path in (tmp_path / "theirs").glob("*.safetensors"))
    assert files == sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors"))
    for name in files:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


@both_types
def test_config_of_transformers_4_loads(tmp_path: Path, model_type: str) -> None:
    ours = make(model_type, rope_theta=5000.0, partial_rotary_factor=1.0)
    ours.save_pretrained(tmp_path)
    edit_config(
        tmp_path,
        rope_parameters=None,
        dtype=None,
        torch_dtype="float32",
        rope_theta=5000.0,
        partial_rotary_factor=1.0,
        transformers_version="4.46.0",
    )
    loaded = GlmForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, ours(IDS).logits)


class TestDtypeAndDevice:
    def test_default_is_the_configs(self, tmp_path: Path) -> None:
        make().bfloat16().save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"
        assert GlmForCausalLM.from_pretrained(tmp_path).lm_head.weight.dtype == torch.bfloat16
        edit_config(tmp_path, dtype="float32", torch_dtype="float32")
        assert GlmForCausalLM.from_pretrained(tmp_path).lm_head.weight.dtype == torch.float32

    def test_then_the_files(self, tmp_path: Path) -> None:
        make().half().save_pretrained(tmp_path)
        edit_config(tmp_path, dtype=None, torch_dtype=None)
        assert GlmForCausalLM.from_pretrained(tmp_path).lm_head.weight.dtype == torch.float16

    @pytest.mark.parametrize(
        "spelling",
        [
            {"dtype": torch.bfloat16},
            {"torch_dtype": "bfloat16"},
            {"dtype": "bf16"},
            {"dtype": "torch.bfloat16"},
        ],
    )
    def test_asked_for(self, tmp_path: Path, spelling: dict) -> None:
        make().save_pretrained(tmp_path)
        assert GlmForCausalLM.from_pretrained(tmp_path, **spelling).lm_head.weight.dtype == torch.bfloat16

    @pytest.mark.parametrize("spelling", [{"device_map": "auto"}, {"device": "cpu"}, {"torch_dtype": "auto"}])
    def test_names_of_transformers(self, tmp_path: Path, spelling: dict) -> None:
        make().save_pretrained(tmp_path)
        device = next(GlmForCausalLM.from_pretrained(tmp_path, **spelling).parameters()).device
        assert device.type == ("cuda" if torch.cuda.is_available() and "device_map" in spelling else "cpu")

    @pytest.mark.parametrize(
        ("spelling", "cure"),
        [
            ({"dtype": "int8"}, "expected one of float32"),
            ({"dtype": torch.float8_e4m3fn}, "expected one of float32"),
            ({"dtype": "bf16", "torch_dtype": "fp32"}, "dtype and torch_dtype are two names"),
            ({"device_map": {"": 0}}, "expected one device"),
            ({"device_map": "balanced"}, "expected one device"),
            ({"device": "cuda:77"}, "device 'cuda:77': torch cannot use it here"),
            ({"device": "meta", "device_map": "auto"}, "device and device_map are two names"),
        ],
    )
    def test_refused(self, tmp_path: Path, spelling: dict, cure: str) -> None:
        make().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=cure):
            GlmForCausalLM.from_pretrained(tmp_path, **spelling)


def test_loaded_model_evaluates_and_trains(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    model = GlmForCausalLM.from_pretrained(tmp_path)
    assert not model.training
    assert not [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    model.train()(IDS, labels=IDS).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_loading_computes_no_random_numbers(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    GlmForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@both_types
def test_bare_model_from_a_causal_folder_and_back(tmp_path: Path, model_type: str) -> None:
    ours = make(model_type, tie_word_embeddings=True)
    ours.save_pretrained(tmp_path / "causal")
    bare = GlmModel.from_pretrained(tmp_path / "causal")
    with torch.no_grad():
        assert torch.equal(bare(IDS).last_hidden_state, ours.model(IDS).last_hidden_state)
    bare.save_pretrained(tmp_path / "bare")
    assert json.loads((tmp_path / "bare/config.json").read_text())["architectures"] == [
        "Glm4Model" if model_type == "glm4" else "GlmModel"
    ]
    again = GlmForCausalLM.from_pretrained(tmp_path / "bare")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, ours(IDS).logits)
    edit_config(tmp_path / "bare", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="load it as GlmModel"):
        GlmForCausalLM.from_pretrained(tmp_path / "bare")


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        (
            {"vocab_size": 10**12},
            "embed_tokens.weight is [64, 16], the model needs [1000000000000, 16] (vocab_size, ",
        ),
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10000000, the weights hold 2 layers"),
        ({"hidden_size": 10**12}, "embed_tokens.weight is [64, 16]"),
        ({"intermediate_size": 10**15}, "gate_up_proj.weight is [48, 16]"),
        ({"head_dim": 10**15}, "q_proj.weight is [32, 16]"),
        ({"num_attention_heads": 10**12, "num_key_value_heads": 10**12}, "k_proj.weight is [16, 16]"),
    ],
)
def test_huge_sizes_are_refused_before_anything_is_built(
    tmp_path: Path, changes: dict[str, int], numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make().save_pretrained(tmp_path)
    edit_config(tmp_path, **changes)
    monkeypatch.setattr(GlmForCausalLM, "__init__", lambda *_: pytest.fail("a model was built"))
    with pytest.raises(CheckpointError, match=re.escape(numbers)):
        GlmForCausalLM.from_pretrained(tmp_path)


class TestGenerationConfig:
    def test_made_from_the_config_when_absent(self, tmp_path: Path) -> None:
        make().save_pretrained(tmp_path)
        values = json.loads((tmp_path / "generation_config.json").read_text())
        assert values == {"eos_token_id": [0, 1, 2], "pad_token_id": 0}
        (tmp_path / "generation_config.json").unlink()
        assert GlmForCausalLM.from_pretrained(tmp_path).generation_config == values

    def test_the_folders_own_is_kept(self, tmp_path: Path) -> None:
        make().save_pretrained(tmp_path / "a")
        (tmp_path / "a/generation_config.json").write_text('{"temperature": 0.8, "eos_token_id": 2}')
        model = GlmForCausalLM.from_pretrained(tmp_path / "a")
        model.save_pretrained(tmp_path / "b")
        values = json.loads((tmp_path / "b/generation_config.json").read_text())
        assert values == {"temperature": 0.8, "eos_token_id": 2, "pad_token_id": 0}

    @pytest.mark.parametrize("text", ["{", "[1]", '{"a": NaN}'])
    def test_broken_is_named(self, tmp_path: Path, text: str) -> None:
        make().save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"generation_config\.json"):
            GlmForCausalLM.from_pretrained(tmp_path)

    @pytest.mark.parametrize("ids", [5.5, "abc", {}, [[1]], ["x"], -5, True, [], [10**6]])
    def test_stop_ids_follow_the_rule_of_the_config(self, tmp_path: Path, ids: object) -> None:
        make().save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id: "):
            GlmForCausalLM.from_pretrained(tmp_path)

    def test_null_means_those_of_the_config(self, tmp_path: Path) -> None:
        make().save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text('{"eos_token_id": null, "pad_token_id": null}')
        assert stop_ids(GlmForCausalLM.from_pretrained(tmp_path)) == [0, 1, 2]


def test_config_is_not_changed_by_saving(tmp_path: Path) -> None:
    model = make()
    before = model.config.to_dict()
    model.save_pretrained(tmp_path)
    assert model.config.to_dict() == before


def test_folder_that_holds_a_model_is_refused_whole(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = make("glm4")
    with pytest.raises(CheckpointError, match="already holds a model"):
        other.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    other.save_pretrained(tmp_path, overwrite=True)
    assert GlmForCausalLM.from_pretrained(tmp_path).config.model_type == "glm4"


def test_single_file_wins_over_an_index_as_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    single, sharded = make(), make(initializer_range=0.5)
    sharded.save_pretrained(tmp_path, max_shard_bytes=4000)
    single.save_pretrained(tmp_path / "single")
    (tmp_path / "single" / SINGLE_NAME).rename(tmp_path / SINGLE_NAME)
    weight = GlmForCausalLM.from_pretrained(tmp_path).lm_head.weight
    assert torch.equal(weight, single.lm_head.weight)
    assert torch.equal(weight, AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight)


def test_weights_of_another_shape_than_the_config(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    edit_config(tmp_path, vocab_size=60)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \[64, 16\], the model needs \[60, 16\]"):
        GlmForCausalLM.from_pretrained(tmp_path)
