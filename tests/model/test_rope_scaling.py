"""Rotary scaling: the same angles as transformers to the bit, both layouts in and out, and every refusal."""

from __future__ import annotations

import copy
import json
import logging
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.errors import ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from glm_train.model.rotary import attention_scaling, inverse_frequencies, rotary_tables
from support.reference import transformers_model
from support.tiny_models import SHAPE
from support.tolerances import LOGITS

RELEASED = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
POSITIONS = torch.tensor([[0, 1, 7, 255, 4095, 32767, 32768, 131071, 1000003]])
YARN: dict[str, list[Any]] = {
    "original_max_position_embeddings": [64, 4096, 32768],
    "attention_factor": [1, 0.7, 1.3],
    "beta_fast": [32, 24.5, 4],
    "beta_slow": [1, 2.5, 4],
    "mscale": [1.0, 0.707, 0],
    "mscale_all_dim": [1.0, 0.5, 2],
    "truncate": [True, False],
}


def their_embedding(values: dict[str, Any], model_type: str = "glm") -> Any:
    """transformers' rotary embedding for the values of a config.json."""
    import transformers
    from transformers.models.glm.modeling_glm import GlmRotaryEmbedding
    from transformers.models.glm4.modeling_glm4 import Glm4RotaryEmbedding

    if model_type == "glm4":
        return Glm4RotaryEmbedding(transformers.Glm4Config(**copy.deepcopy(values)))
    return GlmRotaryEmbedding(transformers.GlmConfig(**copy.deepcopy(values)))


def our_tables(config: GlmConfig, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return rotary_tables(inverse_frequencies(config), POSITIONS, dtype, attention_scaling(config))


def same_tables(config: GlmConfig, theirs: Any, dtype: torch.dtype = torch.float32) -> bool:
    expected = theirs(torch.zeros(1, dtype=dtype), POSITIONS)
    half = expected[0].shape[-1] // 2  # theirs holds every angle twice
    return all(
        torch.equal(ours[:, :, 0], table[..., :half])
        for ours, table in zip(our_tables(config, dtype), expected, strict=True)
    )


def random_values(draw: random.Random) -> dict[str, Any]:
    kind = draw.choice(["default", "linear", "yarn", "yarn"])
    rope: dict[str, Any] = {draw.choice(["type", "rope_type"]): kind}
    if kind != "default":
        rope["factor"] = draw.choice([1, 1.5, 4.0, 32])
    if kind == "yarn":
        rope |= {name: draw.choice(choices) for name, choices in YARN.items() if draw.random() < 0.4}
    return {
        "head_dim": draw.choice([16, 24, 128]),
        "partial_rotary_factor": draw.choice([0.5, 1.0, 0.25, 0.75]),
        "rope_theta": draw.choice([10000.0, 10000, 5e6, 1e8, 123.4]),
        "max_position_embeddings": draw.choice([256, 32768, 131072]),
        draw.choice(["rope_scaling", "rope_parameters"]): rope,
    }


@pytest.mark.parametrize("seed", range(60))
def test_the_tables_are_transformers_bit_for_bit(seed: int) -> None:
    values, model_type = random_values(random.Random(seed)), ("glm", "glm4")[seed % 2]
    config, theirs = GlmConfig(model_type=model_type, **values), their_embedding(values, model_type)
    assert attention_scaling(config) == theirs.attention_scaling
    assert torch.equal(inverse_frequencies(config), theirs.inv_freq)
    assert same_tables(config, theirs)
    assert same_tables(config, theirs, torch.bfloat16)


def test_the_random_configurations_cover_what_they_should() -> None:
    drawn = [GlmConfig(**random_values(random.Random(seed))) for seed in range(60)]
    assert {config.rope_type for config in drawn} == {"default", "linear", "yarn"}
    seen = {key for config in drawn for key in config.rope_parameters}
    assert set(YARN) <= seen


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_released_yarn_setting(share: float) -> None:
    values = {"max_position_embeddings": 32768, "partial_rotary_factor": share, "rope_scaling": RELEASED}
    config = GlmConfig(model_type="glm4", **values)
    assert same_tables(config, their_embedding(values, "glm4"))
    assert attention_scaling(config) == pytest.approx(0.1 * math.log(4) + 1)
    plain, slowed = inverse_frequencies(config.with_changes(rope_scaling=None)), inverse_frequencies(config)
    assert torch.equal(slowed[:4], plain[:4])  # the fast pairs keep their angle
    assert torch.allclose(slowed[-2:], plain[-2:] / 4)  # the slow ones turn a quarter as far


def test_the_original_context_defaults_to_the_configs_and_a_top_level_one_wins() -> None:
    for values in (
        {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 8192},
        {"rope_scaling": {**RELEASED}, "original_max_position_embeddings": 4096},
        {"rope_parameters": {**RELEASED, "factor": None}, "max_position_embeddings": 131072},
    ):
        config, theirs = GlmConfig(**values), their_embedding(values)
        assert same_tables(config, theirs)
        expected = theirs.config.rope_parameters["original_max_position_embeddings"]
        assert config.rope_parameters["original_max_position_embeddings"] == expected
        assert GlmConfig.from_dict(config.to_dict()) == config


def test_theta_can_be_changed_under_a_scaling() -> None:
    config = GlmConfig(rope_scaling=RELEASED)
    config.rope_theta = 5e6
    values = {"rope_theta": 5e6, "rope_scaling": RELEASED}
    assert same_tables(config, their_embedding(values))
    assert same_tables(GlmConfig(rope_scaling=RELEASED).with_changes(rope_theta=5e6), their_embedding(values))


@pytest.mark.parametrize("model_type", ["glm", "glm4"])
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_a_scaled_model_gives_transformers_logits(model_type: str, kind: str) -> None:
    scaling = {"rope_type": kind, "factor": 4.0}
    scaling |= {"original_max_position_embeddings": 16} if kind == "yarn" else {}
    torch.manual_seed(0)
    # a smaller start than SHAPE's, for 60 tokens of fp32 rounding stay below the tolerance
    shape = {**SHAPE, "initializer_range": 0.1, "model_type": model_type}
    ours = GlmForCausalLM(GlmConfig(**shape, rope_scaling=scaling)).eval()
    theirs = transformers_model(ours.config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    ids = torch.randint(6, SHAPE["vocab_size"], (2, 60))
    with torch.no_grad():
        before, expected = ours(ids).logits, theirs(ids).logits
        assert (before - expected).abs().max() < LOGITS
        ours.model.set_rope_theta(500.0)
        theirs = transformers_model(ours.config).eval()
        theirs.load_state_dict(ours.state_dict(), strict=False)
        after = ours(ids).logits
        assert (after - before).abs().max() > 100 * LOGITS
        assert (after - theirs(ids).logits).abs().max() < LOGITS


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_frequencies_have_values_whatever_the_default_device(device: str) -> None:
    with torch.device(device):
        assert inverse_frequencies(GlmConfig(rope_scaling=RELEASED)).device.type == "cpu"


@pytest.mark.parametrize("seed", range(20))
def test_a_saved_config_means_the_same_in_transformers_and_back(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    import transformers

    config = GlmConfig(**{**random_values(random.Random(seed)), "partial_rotary_factor": 0.5})
    config.save_pretrained(tmp_path / "ours")
    transformers.utils.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING, "transformers"):
            theirs = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    finally:
        transformers.utils.logging.disable_propagation()
    told = [record.getMessage() for record in caplog.records]
    # they remark on a context that is not original times factor, and use the factor, as we do
    assert not [text for text in told if "does not match the ratio" not in text]
    from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

    assert same_tables(config, GlmRotaryEmbedding(theirs))
    theirs.save_pretrained(tmp_path / "theirs")
    assert GlmConfig.from_pretrained(tmp_path / "theirs").rope_parameters == config.rope_parameters


def test_a_save_says_a_scaling_in_both_layouts(tmp_path: Path) -> None:
    config = GlmConfig(rope_scaling=RELEASED, rope_theta=5e6)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert saved["rope_scaling"] == config.rope_scaling == scaling
    assert saved["rope_parameters"] == {**scaling, "rope_theta": 5e6, "partial_rotary_factor": 0.5}
    assert (saved["rope_theta"], saved["partial_rotary_factor"]) == (5e6, 0.5)
    assert GlmConfig().rope_scaling is None
    assert "rope_scaling" not in GlmConfig().to_dict()


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "llama3", "proportional"])
def test_kinds_that_are_not_there_say_so(kind: str) -> None:
    with pytest.raises(
        ConfigError, match=f"'{kind}' is not implemented; expected one of default, linear, yarn"
    ):
        GlmConfig(rope_scaling={"rope_type": kind, "factor": 2.0})


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"type": "yran", "factor": 2.0}, "Did you mean 'yarn'"),
        ({"type": ["yarn"]}, "rope_type .'yarn'.: expected one of"),
        ({"rope_type": None}, "rope_type None: expected one of"),
        ({"type": "linear"}, "rope_scaling.factor: missing"),
        ({"type": "linear", "factor": 0.5}, "factor: expected a number of at least 1, found 0.5"),
        ({"type": "linear", "factor": None}, "factor: expected a number of at least 1"),
        ({"type": "linear", "factor": "4"}, "factor: expected a number of at least 1, found '4'"),
        ({"type": "linear", "factor": float("inf")}, "factor: expected a number"),
        ({"type": "linear", "factor": True}, "factor: expected a number"),
        ({"factor": 4.0}, "factor: has no effect with rope_type 'default'; remove it, or set rope_type to"),
        ({"type": "linear", "factor": 2, "beta_fast": 3}, "beta_fast: has no effect with rope_type 'linear'"),
        ({"type": "linear", "factor": 2, "fcator": 3}, "fcator: unknown key. Did you mean 'factor'"),
        (
            {**RELEASED, "original_max_position_embedding": 3},
            "Did you mean 'original_max_position_embeddings'",
        ),
        ({**RELEASED, "original_max_position_embeddings": 0}, "expected a positive whole number, found 0"),
        ({**RELEASED, "original_max_position_embeddings": None}, "expected a positive whole number"),
        ({**RELEASED, "attention_factor": 0}, "attention_factor: expected a number above 0"),
        ({**RELEASED, "beta_fast": 0}, "beta_fast: expected a number from"),
        ({**RELEASED, "beta_fast": 1, "beta_slow": 2}, "beta_fast 1 is below beta_slow 2"),
        ({**RELEASED, "beta_slow": 64}, "beta_fast 32 is below beta_slow 64"),
        ({**RELEASED, "mscale": -1}, "mscale: expected a number of at least 0"),
        ({**RELEASED, "truncate": "no"}, "truncate: expected true or false"),
        ({**RELEASED, "truncate": None}, "truncate: expected true or false"),
        ({**RELEASED, "rope_theta": 1.0}, "rope_theta: expected a number above 1 with rope_type 'yarn'"),
        ({**RELEASED, "rope_theta": None}, "rope_theta: expected a number above 0"),
        ({**RELEASED, "partial_rotary_factor": None}, "partial_rotary_factor: expected a number above 0"),
        ({**RELEASED, "factor": None, "original_max_position_embeddings": 262144}, "at least 1, found 0.5"),
        ("yarn", "rope_scaling: expected an object, found 'yarn'"),
        ([], "rope_scaling: expected an object"),
    ],
)
def test_settings_that_mean_nothing_are_refused(rope: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig(rope_scaling=rope)


def test_all_faults_of_a_scaling_are_listed_with_the_others() -> None:
    with pytest.raises(ConfigError) as error:
        GlmConfig(hidden_size=0, rope_parameters={"rope_type": "yarn", "beta_fats": 3, "mscale": "x"})
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "hidden_size",
        "rope_parameters.factor",
        "rope_parameters.beta_fats",
        "rope_parameters.mscale",
    ]
