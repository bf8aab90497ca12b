"""config.json in and out: both generations of the rotary keys, unknown keys, and every refusal."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.errors import CheckpointError, ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.flops import total_parameters

# The documentation's signature, word for word.
DOCUMENTED = (
    "vocab_size = 151552 hidden_size = 4096 intermediate_size = 13696 num_hidden_layers = 40 "
    "num_attention_heads = 32 num_key_value_heads = 2 head_dim = 128 hidden_act = 'silu' attention_dropout = 0.0 "
    "max_position_embeddings = 131072 initializer_range = 0.02 rms_norm_eps = 1.5625e-07 use_cache = True "
    "tie_word_embeddings = False rope_theta = 10000.0 pad_token_id = 151329 "
    "eos_token_id = [151329, 151336, 151338] bos_token_id = None attention_bias = True"
)


def test_the_signature_is_the_documented_one() -> None:
    *named, others = inspect.signature(GlmConfig).parameters.values()
    assert " ".join(f"{p.name} = {p.default!r}" for p in named) == DOCUMENTED
    assert {p.kind for p in named} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert others.kind == inspect.Parameter.VAR_KEYWORD
    for parameter in named:
        assert getattr(GlmConfig(), parameter.name) == parameter.default
    assert GlmConfig().rotary_dim == 64


def test_two_configs_share_no_list() -> None:
    ids, layout = [1, 2], {"rope_type": "linear", "factor": 2.0}
    one, two = GlmConfig(), GlmConfig()
    one.eos_token_id.append(0)  # type: ignore[union-attr]
    assert two.eos_token_id == GlmConfig().eos_token_id == GlmConfig(eos_token_id=None).eos_token_id
    given = GlmConfig(eos_token_id=ids, rope_parameters=layout, architectures=["A"], lab={"notes": ids})
    ids.append(3)
    layout["factor"] = 3.0
    assert given.eos_token_id == given.extra["lab"]["notes"] == [1, 2]
    assert given.rope_parameters["factor"] == 2.0
    given.to_dict()["lab"]["notes"].append(4)
    given.rope_parameters["factor"] = 5.0
    assert (given.extra["lab"]["notes"], given.rope_parameters["factor"]) == ([1, 2], 2.0)


def test_a_change_is_checked_and_shares_nothing() -> None:
    config = GlmConfig(model_type="glm4", lab={"notes": [1]}, dtype="float32")
    before = config.to_dict()
    other = config.with_changes(
        hidden_act="gelu", attention_dropout=0.1, torch_dtype="bfloat16", lab={"notes": [2]}
    )
    assert (other.hidden_act, other.attention_dropout, other.dtype) == ("gelu", 0.1, "bfloat16")
    assert (other.model_type, other.extra["lab"]) == ("glm4", {"notes": [2]})
    same = config.with_changes()
    assert same == config
    same.extra["lab"]["notes"].append(3)
    same.eos_token_id.append(3)  # type: ignore[union-attr]
    assert config.to_dict() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hiden_size": 64}, "hiden_size: not a key of GlmConfig. Did you mean 'hidden_size'"),
        ({"rope_tetha": 1.0, "nun_labels": 2}, "rope_tetha.*\nnun_labels: .*'num_labels'"),
        ({"trust_remote_code": True}, "trust_remote_code: not a key"),
        ({"extra": 1}, "extra: not a key"),
        ({"others": 1}, "others: not a key"),
        ({"vocab_size": 0}, "vocab_size: expected a positive whole number"),
        ({"rope_theta": 5e6, "rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 1e4}}, "give one"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"factor": 2}}, "give one"),
    ],
)
def test_changes_that_cannot_be_made_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig().with_changes(**changes)


def test_a_change_of_rotary_settings_keeps_what_it_does_not_name() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = GlmConfig(rope_theta=5e6, partial_rotary_factor=1.0, rope_scaling=yarn)
    assert config.with_changes(rope_theta=7.0).rope_scaling == config.rope_scaling
    assert config.with_changes(partial_rotary_factor=0.5).rope_parameters["factor"] == 4.0
    for name in ("rope_scaling", "rope_parameters"):
        other = config.with_changes(**{name: {"rope_type": "linear", "factor": 2.0}})
        assert (other.rope_type, other.rope_theta, other.partial_rotary_factor) == ("linear", 5e6, 1.0)
        plain = config.with_changes(**{name: None})
        assert (plain.rope_scaling, plain.rope_theta, plain.rope_type) == (None, 5e6, "default")
    # the length that yarn started from stays when the context is stated anew
    kept = GlmConfig(rope_scaling={"type": "yarn", "factor": 4.0}, max_position_embeddings=8192)
    grown = kept.with_changes(max_position_embeddings=32768)
    assert grown.rope_parameters["original_max_position_embeddings"] == 8192


def test_changes_while_reading(tmp_path: Path) -> None:
    GlmConfig(hidden_act="gelu").save_pretrained(tmp_path)
    config = GlmConfig.from_pretrained(tmp_path, num_labels=3, rope_theta=5e6, output_attentions=True)
    assert (config.hidden_act, config.num_labels, config.rope_theta) == ("gelu", 3, 5e6)
    with pytest.raises(ConfigError, match="Did you mean 'num_labels'"):
        GlmConfig.from_pretrained(tmp_path, num_label=3)


def test_what_a_forward_returns_is_saved_only_where_it_is_unusual() -> None:
    names = ("output_attentions", "output_hidden_states", "return_dict")
    assert [getattr(GlmConfig(), name) for name in names] == [False, False, True]
    assert not set(names) & GlmConfig().to_dict().keys()
    unusual = dict(zip(names, (True, True, False), strict=True))
    config = GlmConfig(**unusual)
    assert {name: config.to_dict()[name] for name in names} == unusual
    assert GlmConfig.from_dict(config.to_dict()) == config


def test_bidirectional_is_said_as_transformers_says_it(tmp_path: Path) -> None:
    from transformers import AutoConfig
    from transformers import GlmConfig as TheirConfig

    assert GlmConfig().bidirectional is False
    assert (
        not {"bidirectional", "is_causal"} & GlmConfig(bidirectional=False, is_causal=True).to_dict().keys()
    )
    config = GlmConfig(bidirectional=True)
    config.save_pretrained(tmp_path / "ours")
    assert AutoConfig.from_pretrained(tmp_path / "ours").is_causal is False
    assert GlmConfig.from_pretrained(tmp_path / "ours").bidirectional is True
    TheirConfig(is_causal=False).save_pretrained(tmp_path / "theirs")
    theirs = GlmConfig.from_pretrained(tmp_path / "theirs")
    assert theirs.bidirectional is True
    for change in ({"bidirectional": False}, {"is_causal": True}):
        assert theirs.with_changes(**change).bidirectional is False
    assert GlmConfig().with_changes(is_causal=False).bidirectional is True


def test_keys_about_code_that_is_never_run_have_no_effect(tmp_path: Path) -> None:
    keys = {
        "_attn_implementation_internal": "my_kernel",
        "attn_implementation": "somebody/kernel",
        "_target_": "os.system",
        "custom_pipelines": {"text-generation": {"impl": "x.Y"}},
        "auto_map": {"AutoConfig": "x.Y"},
        "trust_remote_code": True,
        "transformers_version": "4.46.0",
    }
    config = GlmConfig.from_dict({"model_type": "glm", **keys})
    assert config == GlmConfig()
    config.save_pretrained(tmp_path)
    assert not keys.keys() & json.loads((tmp_path / "config.json").read_text()).keys()


def test_a_torch_dtype_is_read_by_its_name() -> None:
    assert GlmConfig(dtype=torch.bfloat16).to_dict()["dtype"] == "bfloat16"


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
        ({"model_type": "chatglm"}, "padded_vocab_size"),
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
        ({"bos_token_id": [1]}, "bos_token_id: expected an id or null"),
        ({"bos_token_id": -1}, "bos_token_id: -1 is not an id below"),
        ({"rope_theta": None}, "rope_theta: expected a number above 0"),
        ({"partial_rotary_factor": None}, "partial_rotary_factor: expected a number above 0"),
        ({"bidirectional": "yes"}, "bidirectional: expected true or false"),
        ({"bidirectional": True, "is_causal": True}, "are both true; remove one"),
        ({"is_causal": None}, "is_causal: expected true or false"),
        ({"return_dict": None}, "return_dict: expected true or false"),
        ({"output_attentions": 1}, "output_attentions: expected true or false"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not read; use the original"),
        *(({"eos_token_id": ids}, "eos_token_id: ") for ids in (5.5, "abc", {}, [], [[1]], -5, True)),
    ],
)
def test_values_that_make_no_model_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig.from_dict({"model_type": "glm", **values})


def test_the_original_layout_is_named_where_its_values_are_not() -> None:
    with pytest.raises(ConfigError, match="from_pretrained and from_dict translate it"):
        GlmConfig(model_type="chatglm")


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
        ('{"model_type": "glm", "deep": ' + "[" * 900 + "]" * 900 + "}", "nested too deeply"),
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
