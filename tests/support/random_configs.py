"""Random configurations of the whole family, and random batches for them: what nobody thought of to write down."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from glm_train.model.config import GlmConfig


def random_config(draw: random.Random, **settled: Any) -> GlmConfig:
    """Any width, any grouping of heads, any share of rotated channels, either type; all tiny."""
    kv_heads, groups = draw.choice([1, 2, 3]), draw.choice([1, 2, 3, 4])
    head_dim = draw.choice([4, 6, 8, 10, 16, 24, 32])
    shares = [pairs * 2 / head_dim for pairs in range(1, head_dim // 2 + 1)]
    vocab = draw.randint(20, 120)
    values: dict[str, Any] = {
        "model_type": draw.choice(["glm", "glm4"]),
        "vocab_size": vocab,
        "hidden_size": draw.choice([16, 20, 32, 45, 64]),
        "intermediate_size": draw.choice([8, 30, 51, 96]),
        "num_hidden_layers": draw.randint(1, 4),
        "num_attention_heads": kv_heads * groups,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "partial_rotary_factor": draw.choice([0.5, 1.0, *shares])
        if head_dim % 4 == 0
        else draw.choice(shares),
        "hidden_act": draw.choice(["silu", "silu", "swish", "gelu", "relu"]),
        "attention_bias": draw.random() < 0.5,
        "tie_word_embeddings": draw.random() < 0.3,
        "rope_theta": draw.choice([2.0, 100.0, 1e4, 5e6, 1e8]),
        "rms_norm_eps": draw.choice([1.5625e-07, 1e-6, 1e-5, 1e-2]),
        "initializer_range": draw.choice([0.02, 0.1, 0.2]),
        "max_position_embeddings": draw.choice([64, 256, 4096]),
        "pad_token_id": draw.choice([None, 0, vocab - 1, draw.randrange(vocab)]),
        "eos_token_id": [0, vocab - 1],
        "num_labels": draw.randint(1, 6),
        "classifier_dropout": draw.choice([None, 0.0, 0.3]),
        "token_classification_bias": draw.random() < 0.7,
    }
    if draw.random() < 0.3:
        values["rope_scaling"] = random_scaling(draw)
    return GlmConfig(**{**values, **settled})


def random_scaling(draw: random.Random) -> dict[str, Any]:
    """Settings of `linear` or `yarn`."""
    factor = draw.choice([1.0, 1.5, 4.0, 40.0])
    if draw.random() < 0.5:
        return {"rope_type": "linear", "factor": factor}
    yarn: dict[str, Any] = {"rope_type": "yarn", "factor": factor}
    for key, values in {
        "original_max_position_embeddings": [16, 64],
        "beta_fast": [32, 4.0],
        "beta_slow": [1, 0.5],
        "attention_factor": [0.7, 1.4],
        "truncate": [True, False],
    }.items():
        if key == "original_max_position_embeddings" or draw.random() < 0.5:
            yarn[key] = draw.choice(values)
    return yarn


def random_batch(draw: random.Random, config: GlmConfig) -> tuple[Tensor, Tensor, list[int]]:
    """Ids and mask (B, T) of rows padded on one side, and the rows' lengths; no row is empty."""
    lengths = [draw.randint(1, 13) for _ in range(draw.randint(1, 4))]
    left, width = draw.random() < 0.5, max(lengths)
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    ids = torch.randint(0, config.vocab_size, (len(lengths), width), generator=generator)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, slice(width - length, width) if left else slice(0, length)] = 1
    return torch.where(mask.bool(), ids, config.pad_token_id or 0), mask, lengths


def random_labels(draw: random.Random, head: str, config: GlmConfig, mask: Tensor) -> Tensor:
    """Labels that suit the head, some of the tokens' not trained, and at least one trained."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    rows, labels = len(mask), config.num_labels
    if head == "sequence" and labels == 1:
        return torch.randn(rows, generator=generator)
    if head == "sequence" and draw.random() < 0.3:
        return torch.rand(rows, labels, generator=generator).round()
    if head == "sequence":
        return torch.randint(0, labels, (rows,), generator=generator)
    classes = config.vocab_size if head == "causal" else labels
    chosen = torch.randint(0, classes, mask.shape, generator=generator)
    trained = mask.bool() & (torch.rand(mask.shape, generator=generator) < 0.7)
    if not trained[:, 1:].any():
        trained = mask.bool()
    return torch.where(trained, chosen, -100)
