"""Rotary settings against transformers, end to end: bases, shares, `linear` and `yarn`, in both layouts of config.json.

Positions run past the original context, where a wrong frequency shows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from glm_train.model.config import GlmConfig
from support.reference import assert_close, assert_parity, pair, ragged_batch

CONTEXT = {"max_position_embeddings": 256}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SETTINGS: dict[str, dict[str, Any]] = {
    "theta of the chat model": {"rope_theta": 5e6},
    "theta below one head": {"rope_theta": 3.0},
    "whole heads": {"partial_rotary_factor": 1.0},
    "one pair": {"partial_rotary_factor": 0.125},
    "5.x, default": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.75}
    },
    "4.x, linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "5.x, linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0}},
    "4.x, yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    "5.x, yarn": {"rope_parameters": {**YARN, "rope_theta": 500.0, "partial_rotary_factor": 1.0}},
    "yarn, its own ramp": {
        "rope_parameters": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "rope_theta": 100.0}
    },
    "yarn, its own factor of attention": {"rope_parameters": {**YARN, "attention_factor": 1.3}},
    "yarn, mscale": {"rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.8}},
    "yarn, ramp not truncated": {"rope_parameters": {**YARN, "truncate": False, "rope_theta": 100.0}},
    "yarn of GLM-4-0414": {
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        "max_position_embeddings": 131072,
    },
}


@pytest.mark.parametrize("variant", ["glm", "glm4"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_give_transformers_numbers(name: str, variant: str) -> None:
    settings = SETTINGS[name]
    ours, reference = pair(variant, **{**CONTEXT, **settings})
    ids, mask = ragged_batch("left")
    longest = ours.config.max_position_embeddings
    positions = torch.tensor([[0], [60], [longest // 2 - 6]]) + (longest // 24) * torch.arange(11)
    assert positions.max() < longest
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "labels": ids}
    assert_parity(ours, reference, given)


@pytest.mark.parametrize("name", [name for name in SETTINGS if "linear" in name or "yarn" in name])
def test_a_scaling_changes_the_numbers_and_survives_a_save(name: str) -> None:
    """The settings are read, not dropped; and what is written is read as the same."""
    ours, _ = pair("glm", **{**CONTEXT, **SETTINGS[name]})
    theta = ours.config.rope_theta
    share = ours.config.partial_rotary_factor
    plain, _ = pair("glm", **CONTEXT, rope_theta=theta, partial_rotary_factor=share)
    ids, _ = ragged_batch("left", (11, 11), pad=None)
    assert (ours(ids).logits - plain(ids).logits).abs().max() > 1e-3
    again = type(ours)(GlmConfig.from_dict(ours.config.to_dict())).eval()
    again.load_state_dict(ours.state_dict())
    assert_close(again(ids).logits, ours(ids).logits)


def test_a_new_theta_gives_the_numbers_of_a_model_made_with_it() -> None:
    ours, _ = pair("glm4")
    changed, reference = pair("glm4", rope_theta=5e6)
    ours.model.set_rope_theta(5e6)
    ids, _ = ragged_batch("right")
    assert_close(ours(ids).logits, reference(input_ids=ids).logits)
    assert ours.config.rope_parameters == changed.config.rope_parameters
