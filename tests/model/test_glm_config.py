"""config.json in and out: both generations of the rotary keys, unknown keys, and every refusal."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import CheckpointError, ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.flops import total_parameters


def test_defaults_are_the_documented_ones() -> None:
    config = GlmConfig()
    assert (config.vocab_size, config.hidden_size, config.head_dim) == (151552, 4096, 128)
    assert config.eos_token_id == [151329, 151336, 151338]
    assert config.rope_theta == 10000.0
    assert config.rotary_dim == 64


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 5e6, "partial_rotary_factor": 1.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 1.0}},
        # what stands in rope_parameters wins
        {"rope_theta": 7.0, "partial_rotary_factor": 1.0, "rope_parameters": {"rope_theta": 5e6}},
    ],
)
def test_both_generations_of_rotary_keys_are_read(rope: dict[str, Any]) -> None:
    config = GlmConfig.from_dict({"model_type": "glm", **rope})
    assert (config.rope_theta, config.partial_rotary_factor) == (5e6, 1.0)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": {}, "rope_parameters": {"rope_theta": 5.0, "partial_rotary_factor": 1.0}},
        {"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 5e6}},
        {"rope_scaling": {"type": "linear", "rope_type": "default"}, "rope_theta": 7.0},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 3.0}, "rope_theta": 7.0},
    ],
)
def test_rope_scaling_is_read_as_transformers_reads_it(rope: dict[str, Any]) -> None:
    from transformers.models.glm import GlmConfig as TheirConfig

    theirs = TheirConfig(**copy.deepcopy(rope)).rope_parameters
    ours = GlmConfig.from_dict({"model_type": "glm", **rope}).rope_parameters
    assert ours == {key: theirs[key] for key in ours}


def test_any_key_is_kept_even_self(tmp_path: Path) -> None:
    config = GlmConfig.from_dict({"model_type": "glm", "self": 1, "extra": 2, "quantization_config": None})
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["self"], saved["extra"]) == (1, 2)
    assert GlmConfig.from_pretrained(tmp_path) == config


def test_a_save_keeps_unknown_keys_but_no_remote_code(tmp_path: Path) -> None:
    config = GlmConfig.from_dict(
        {"model_type": "glm4", "seed_of_the_lab": {"a": [1]}, "auto_map": {"AutoModel": "x.Y"}}
    )
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["seed_of_the_lab"] == {"a": [1]}
    assert "auto_map" not in saved
    assert saved["rope_parameters"]["rope_theta"] == saved["rope_theta"] == 10000.0
    assert GlmConfig.from_pretrained(tmp_path) == config


def test_kv_heads_and_head_dim_default_from_the_heads() -> None:
    config = GlmConfig(hidden_size=64, num_attention_heads=8, num_key_value_heads=None, head_dim=None)
    assert (config.num_key_value_heads, config.head_dim) == (8, 8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "chatglm"}, "-hf folder"),
        ({"model_type": "glm_4"}, "Did you mean"),
        ({"hidden_size": "4096"}, "hidden_size: expected a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "not a multiple"),
        ({"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ({"head_dim": 6, "partial_rotary_factor": 0.5}, "even number"),
        ({"hidden_act": "sillu"}, "hidden_act"),
        ({"pad_token_id": 151552}, "pad_token_id"),
        ({"eos_token_id": ["<|user|>"]}, "eos_token_id"),
        ({"attention_bias": "yes"}, "attention_bias"),
        ({"dtype": "fp8"}, "dtype"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps: expected a number above 0"),
        ({"head_dim": 10**400}, "head_dim: expected a positive whole number"),
        ({"partial_rotary_factor": 1e308}, "more than all of 128"),
        ({"torch_dtype": [1]}, "torch_dtype: expected one of"),
        ({"torch_dtype": [1], "dtype": "float32"}, "torch_dtype: expected one of"),
        ({"architectures": 5}, "architectures: expected a list of names"),
        ({"architectures": [5]}, "architectures: expected a list of names"),
        ({"pad_token_id": [1]}, "pad_token_id: expected an id or null"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not read; use the original"),
        *(({"eos_token_id": ids}, "eos_token_id: ") for ids in (5.5, "abc", {}, [], [[1]], -5, True)),
    ],
)
def test_values_that_make_no_model_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig.from_dict({"model_type": "glm", **values})


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        GlmConfig(hidden_size=-1, vocab_size=0, hidden_act="x")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("{", "cannot be read as JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "no 'model_type'"),
    ],
)
def test_unreadable_files_name_the_file(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as error:
        GlmConfig.from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_parameter_counts_of_the_released_models() -> None:
    assert total_parameters(GlmConfig()) == 9_399_951_360
    assert total_parameters(GlmConfig(model_type="glm4")) == 9_400_279_040
