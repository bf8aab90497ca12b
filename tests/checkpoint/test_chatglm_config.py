"""config.json of the original layout: each key's meaning, what is refused by name, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glm_train import GlmConfig
from glm_train.errors import CheckpointError, ConfigError
from glm_train.model.chatglm_config import from_hugging_face, to_hugging_face
from support.chatglm_folder import CONFIG, make_chatglm_folder


def test_every_key_gets_its_meaning() -> None:
    released = {**CONFIG, "num_layers": 40, "padded_vocab_size": 151552, "multi_query_group_num": 4}
    config = GlmConfig(**to_hugging_face(released))
    expected = {
        "model_type": "glm",
        "vocab_size": 151552,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1.5625e-07,
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "rope_theta": 5e6,
        "partial_rotary_factor": 0.5,
        "pad_token_id": 5,
        "eos_token_id": [5, 7, 9],
        "tie_word_embeddings": False,
        "use_cache": True,
        "dtype": "float32",
        "architectures": ["GlmForCausalLM"],
    }
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("ratio", "theta"), [(None, 1e4), (1, 1e4), (500, 5e6), (10000, 1e8), (0.5, 5e3), (50.25, 502500.0)]
)
def test_rope_ratio_becomes_the_base_and_back(ratio: float | None, theta: float) -> None:
    values = {key: value for key, value in {**CONFIG, "rope_ratio": ratio}.items() if value is not None}
    config = GlmConfig(**to_hugging_face(values))
    assert config.rope_theta == theta
    back = from_hugging_face(config)["rope_ratio"]
    assert back == (1 if ratio is None else ratio)
    assert type(back) is type(1 if ratio is None else ratio)


def test_the_original_comes_back_key_by_key() -> None:
    ours = {"auto_map", "transformers_version", "_name_or_path"}
    kept = {key: value for key, value in CONFIG.items() if key not in ours}
    given = {**kept, "some_future_key": {"a": [1]}}
    assert from_hugging_face(GlmConfig(**to_hugging_face(given))) == given


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model_type": "glm4", "rms_norm_eps": 1e-5, "attention_bias": False, "dtype": "bfloat16"},
        {"num_key_value_heads": 32, "rope_theta": 1e8, "tie_word_embeddings": True},
        {"num_labels": 3, "problem_type": "single_label_classification", "classifier_dropout": 0.25},
        {"pad_token_id": None, "eos_token_id": 7, "initializer_range": 0.3, "anything": "else"},
    ],
)
def test_a_hugging_face_config_comes_back_equal(changes: dict[str, Any]) -> None:
    config = GlmConfig(architectures=["GlmForCausalLM"], **changes)
    back = GlmConfig(**to_hugging_face(from_hugging_face(config)))
    back.architectures = config.architectures
    assert back == config


def test_nothing_but_what_is_known_is_missing_from_a_written_config() -> None:
    """The original's class takes its defaults from another model, so none may be left to it."""
    written = from_hugging_face(GlmConfig())
    optional = {"apply_query_key_layer_scaling", "attention_softmax_in_fp32", "bias_dropout_fusion"}
    optional |= {"attn_implementation", "torch_dtype", "_name_or_path", "auto_map", "transformers_version"}
    assert CONFIG.keys() - written.keys() == optional
    assert written["model_type"] == "chatglm"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("add_bias_linear", True, "GLM-4 has False, found True"),
        ("rmsnorm", False, "GLM-4 has True"),
        ("post_layer_norm", False, "GLM-4 has True"),
        ("apply_residual_connection_post_layernorm", True, "GLM-4 has False"),
        ("original_rope", False, "GLM-4 has True"),
        ("fp32_residual_connection", True, "GLM-4 has False"),
        ("hidden_dropout", 0.1, "found 0.1"),
        ("multi_query_attention", False, "head by head"),
        ("multi_query_attention", None, "which the original takes for False"),
        ("interleaved_qkv", True, "not supported"),
        ("quantization_bit", 4, "quantised"),
        ("pre_seq_len", 128, "P-tuning"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "convert the folder first"),
        ("rope_ratio", "500", "number above 0"),
        ("rope_ratio", 0, "number above 0"),
        ("layernorm_epsilon", -1, "number above 0"),
        ("layernorm_epsilon", None, "missing: layernorm_epsilon"),
        ("num_layers", None, "missing: num_layers"),
        ("num_layers", 3.0, "positive whole number"),
        ("padded_vocab_size", True, "positive whole number"),
        ("add_qkv_bias", "yes", "true or false"),
        ("architectures", "ChatGLMModel", "list of names"),
        ("post_mlp_layernorm", True, "both or for none"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused_by_name(key: str, value: Any, words: str) -> None:
    values = {name: v for name, v in {**CONFIG, key: value}.items() if v is not None}
    with pytest.raises(ConfigError) as caught:
        to_hugging_face(values)
    (line,) = str(caught.value).splitlines()
    assert key in line
    assert words in line


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        to_hugging_face({**CONFIG, "rmsnorm": False, "hidden_dropout": 0.5, "num_layers": 0})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"padded_vocab_size": 65024, "eos_token_id": 2, "pad_token_id": 0}, "ChatGLM2 or ChatGLM3"),
        ({"padded_vocab_size": 65024}, "ChatGLM2 or ChatGLM3"),
        ({"padded_vocab_size": 65088, "eos_token_id": 2}, "65088"),
        ({"vision_config": {"hidden_size": 1792}}, "GLM-4V"),
        ({"boi_token_id": 151339}, "GLM-4V"),
        ({"position_encoding_2d": True}, "first ChatGLM-6B"),
        ({"inner_hidden_size": 16384}, "first ChatGLM-6B"),
    ],
)
def test_other_models_of_the_same_type_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        to_hugging_face({**CONFIG, **changes})


def test_a_small_vocabulary_with_stop_id_two_is_no_chatglm3() -> None:
    assert to_hugging_face({**CONFIG, "eos_token_id": 2})["eos_token_id"] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partial_rotary_factor": 1.0}, "half of each head"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "no rotary scaling"),
        ({"hidden_act": "gelu"}, "only silu"),
        ({"bidirectional": True}, "what comes before"),
        ({"rope_theta": 11000.300000000008}, "rope_ratio"),
    ],
)
def test_what_the_original_cannot_say_is_not_written(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_hugging_face(GlmConfig(**changes))


def test_names_of_hugging_face_count_for_nothing_in_an_original_file() -> None:
    strays = {"intermediate_size": 7, "num_key_value_heads": 1, "rope_theta": 3.0, "vocab_size": 9}
    strays |= {"rms_norm_eps": 0.5, "head_dim": 2, "partial_rotary_factor": 1.0, "num_hidden_layers": 9}
    assert to_hugging_face({**CONFIG, **strays}) == to_hugging_face(CONFIG)


def test_the_argument_is_left_as_it_is() -> None:
    given = {**CONFIG}
    to_hugging_face(given)
    assert given == CONFIG


class TestFolders:
    def test_from_pretrained_reads_it(self, tmp_path: Path) -> None:
        config = GlmConfig.from_pretrained(make_chatglm_folder(tmp_path / "m"))
        assert (config.model_type, config.rope_theta, config.vocab_size) == ("glm", 5e6, 97)
        assert "auto_map" not in config.to_dict()

    def test_faults_name_the_file(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m", rmsnorm=False)
        with pytest.raises(CheckpointError, match=r"config\.json: rmsnorm: GLM-4 has True"):
            GlmConfig.from_pretrained(folder)

    @pytest.mark.parametrize("shards", [1, 3])
    def test_sandwich_norms_are_seen_in_the_weights(self, tmp_path: Path, shards: int) -> None:
        folder = make_chatglm_folder(tmp_path / "m", sandwich=True, shards=shards)
        assert GlmConfig.from_pretrained(folder).model_type == "glm4"

    def test_sandwich_norms_may_be_said_by_the_config(self) -> None:
        said = {"post_self_attn_layernorm": True, "post_mlp_layernorm": True}
        assert to_hugging_face({**CONFIG, **said})["model_type"] == "glm4"
        written = from_hugging_face(GlmConfig(model_type="glm4"))
        assert {key: written[key] for key in said} == said
        assert said.keys().isdisjoint(from_hugging_face(GlmConfig()))

    def test_looking_at_the_weights_takes_no_harm_from_them(self, tmp_path: Path) -> None:
        (tmp_path / "model.safetensors").mkdir()
        assert to_hugging_face(CONFIG, tmp_path)["model_type"] == "glm"
