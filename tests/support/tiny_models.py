"""Tiny configurations that between them cover the family's variants."""

from __future__ import annotations

from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 5,
    "eos_token_id": [5, 7, 9],
    # Larger than the released 0.02, so that attention is not nearly uniform and mistakes show.
    "initializer_range": 0.3,
}

_SHAPES: dict[str, dict[str, Any]] = {
    "": {},
    "-mqa": {"num_key_value_heads": 1},
    "-gqa4-nobias": {"num_attention_heads": 8, "num_key_value_heads": 2, "attention_bias": False},
    "-mha-tied": {"num_key_value_heads": 4, "tie_word_embeddings": True},
    "-edge": {
        "attention_bias": False,
        "tie_word_embeddings": True,
        "partial_rotary_factor": 1.0,
        "rms_norm_eps": 1e-5,
    },
    "-head-dim": {"head_dim": 24, "partial_rotary_factor": 0.25, "rope_theta": 5e6},
    "-no-pad": {"pad_token_id": None},
}

#: `glm`, `glm-mqa`, ..., `glm4`, `glm4-mqa`, ...
VARIANTS: dict[str, dict[str, Any]] = {
    kind + name: {**({} if kind == "glm" else {"model_type": kind}), **shape}
    for kind in ("glm", "glm4")
    for name, shape in _SHAPES.items()
}
