"""The released checkpoints' shapes: sizes as counted, as derived and as transformers builds them."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from glm_train.errors import ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.flops import total_parameters
from glm_train.model.presets import PRESETS, suspicious_theta
from support.reference import transformers_config, transformers_model
from support.tiny_models import SHAPE, VARIANTS

# Where embedding and head are one matrix (glm-edge-1.5b-chat), it counts once.
SIZES = {
    "glm-4-9b": 9_399_951_360,
    "glm-4-9b-hf": 9_399_951_360,
    "glm-4-9b-chat": 9_399_951_360,
    "glm-4-9b-chat-hf": 9_399_951_360,
    "glm-4-9b-chat-1m": 9_483_857_920,
    "GLM-4-9B-0414": 9_400_279_040,
    "GLM-Z1-9B-0414": 9_400_279_040,
    "GLM-4-32B-0414": 32_566_081_536,
    "GLM-4-32B-Base-0414": 32_566_081_536,
    "GLM-Z1-32B-0414": 32_566_081_536,
    "glm-edge-1.5b-chat": 1_472_055_296,
    "glm-edge-4b-chat": 4_327_984_128,
}


def test_every_preset_has_a_size() -> None:
    assert set(SIZES) == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_as_large_as_its_checkpoint(name: str) -> None:
    config = GlmConfig.preset(name)
    assert total_parameters(config) == SIZES[name]
    with torch.device("meta"):
        theirs = transformers_model(config)
    assert sum(p.numel() for p in theirs.parameters()) == SIZES[name]  # counts tied ones once


@pytest.mark.parametrize("name", PRESETS)
def test_transformers_takes_a_preset_as_it_is(name: str) -> None:
    config = GlmConfig.preset(name)
    theirs = transformers_config(config)
    assert theirs.model_type == config.model_type
    assert theirs.rope_parameters == config.rope_parameters
    assert theirs.eos_token_id == config.eos_token_id


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("head", ["causal_lm", "sequence_classification", "token_classification", "none"])
def test_the_count_of_every_head_is_transformers(variant: str, head: str) -> None:
    import transformers

    config = GlmConfig(**{**SHAPE, **VARIANTS[variant], "num_labels": 7})
    prefix = "Glm4" if config.model_type == "glm4" else "Glm"
    names = {
        "causal_lm": "ForCausalLM",
        "sequence_classification": "ForSequenceClassification",
        "token_classification": "ForTokenClassification",
        "none": "Model",
    }
    with torch.device("meta"):
        theirs = getattr(transformers, prefix + names[head])(transformers_config(config))
    assert sum(p.numel() for p in theirs.parameters()) == total_parameters(config, head)


def test_a_head_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of causal_lm"):
        total_parameters(GlmConfig(), "lm")


def test_the_chatglm_releases_have_their_true_theta() -> None:
    assert GlmConfig.preset("glm-4-9b").rope_theta == 10000
    assert GlmConfig.preset("glm-4-9b-chat").rope_theta == 5e6
    long = GlmConfig.preset("glm-4-9b-chat-1m")
    assert (long.rope_theta, long.max_position_embeddings, long.num_key_value_heads) == (1e8, 1048576, 4)


@pytest.mark.parametrize(
    "name", ["glm-4-9b-0414", "GLM-4-9B-0414", "THUDM/GLM-4-9B-0414", "zai-org/glm-4-9B-0414"]
)
def test_a_preset_is_found_in_any_case_and_with_its_organisation(name: str) -> None:
    assert GlmConfig.preset(name) == GlmConfig.preset("GLM-Z1-9B-0414")


@pytest.mark.parametrize(
    ("name", "message"), [("glm-4-9b-caht", "Did you mean 'glm-4-9b-chat'"), ("?", "There are")]
)
def test_unknown_presets_name_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig.preset(name)


def test_a_preset_shares_nothing_with_the_table() -> None:
    GlmConfig.preset("glm-edge-4b-chat").eos_token_id.append(1)  # type: ignore[union-attr]
    assert GlmConfig.preset("glm-edge-4b-chat").eos_token_id == [59246, 59253, 59255]


@pytest.mark.parametrize(
    ("values", "theta"),
    [
        ({}, "5e6"),
        (PRESETS["glm-4-9b-chat-hf"], "5e6"),
        ({"max_position_embeddings": 1048576}, "1e8"),
        (PRESETS["glm-4-9b"], None),
        (PRESETS["glm-4-9b-chat"], None),
        (PRESETS["glm-4-9b-chat-1m"], None),
        (PRESETS["glm-edge-4b-chat"], None),
        ({"model_type": "glm4"}, None),
    ],
)
def test_a_theta_that_the_converter_lost_is_remarked_on(values: dict[str, Any], theta: str | None) -> None:
    warning = suspicious_theta(GlmConfig(**values))
    if theta is None:
        assert warning is None
    else:
        assert warning is not None
        assert re.search(
            rf"rope_ratio.*model\.rope_theta={theta} .*rope_theta={theta} in from_pretrained", warning
        )
