"""The arithmetic of operations: by hand for a tiny shape."""

from __future__ import annotations

import pytest

from glm_train import GlmConfig
from glm_train.model.flops import matrix_parameters, trained_model_flops, training_flops
from glm_train.model.heads import GlmForCausalLM
from support.tiny_heads import TINY


def test_the_shape_of_glm_4_9b() -> None:
    """204 M weights a layer, 621 M in the head; at 4,096 tokens 56.7 GFLOP a token, 39.2 under a frozen base."""
    config = GlmConfig()
    assert matrix_parameters(config) == (8_157_921_280, 620_756_992)
    full = training_flops(config, [4096], 4096) / 4096
    assert full == pytest.approx(6 * 8_778_678_272 + 983_040 * 4096)
    lora = training_flops(config, [4096], 4096, adapter_parameters=47_595_520) / 4096
    assert lora == pytest.approx(4 * 8_778_678_272 + 6 * 47_595_520 + 983_040 * 4096)


def test_heads_documents_and_directions() -> None:
    config = GlmConfig(**TINY)
    body, head = matrix_parameters(config)
    width = config.num_hidden_layers * config.num_attention_heads * config.head_dim
    assert training_flops(config, [3, 5], 4) == 6 * body * 8 + 6 * head * 4 + 6 * width * (9 + 25)
    assert training_flops(config, [3, 5], 2, head_parameters=7) == 6 * body * 8 + 6 * 7 * 2 + 6 * width * 34
    both = config.with_changes(bidirectional=True)
    assert training_flops(both, [3, 5], 4) - training_flops(config, [3, 5], 4) == 6 * width * 34


def test_a_model_is_counted_as_it_is_trained() -> None:
    model = GlmForCausalLM(GlmConfig(**TINY))
    assert trained_model_flops(model, [4], 2) == training_flops(model.config, [4], 2)
    from glm_train.adapters.lora import add_adapter
    from glm_train.adapters.settings import LoraSettings

    add_adapter(model, LoraSettings(r=2))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained_model_flops(model, [4], 2) == training_flops(
        model.config, [4], 2, adapter_parameters=trained
    )
