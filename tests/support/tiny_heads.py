"""Tiny models of every head, with all their weights random, and their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from glm_train import GlmConfig, GlmForCausalLM

TINY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": [0, 1, 2],
    "initializer_range": 0.2,
}


def make(cls: type = GlmForCausalLM, **changes: Any) -> Any:
    torch.manual_seed(0)
    model = cls(GlmConfig(**{**TINY, **changes})).eval()
    with torch.no_grad():  # norms and biases too, which start as ones and zeros
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def saved(folder: Path, cls: type = GlmForCausalLM, **changes: Any) -> Any:
    model = make(cls, **changes)
    model.save_pretrained(folder)
    return model


def edit_config(folder: Path, **changes: object) -> None:
    values = {**json.loads((folder / "config.json").read_text()), **changes}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
