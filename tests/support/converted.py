"""Random Hugging Face folders to convert, and ways to say that two folders are equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glm_train import GlmConfig, GlmForCausalLM
from support.chatglm_folder import read_tensors
from support.tiny_models import SHAPE, VARIANTS


def _has_an_original(variant: str) -> bool:
    config = GlmConfig(**{**SHAPE, **VARIANTS[variant]})
    return config.rotary_dim * 2 == config.head_dim and config.rope_type == "default"


# The original's code rotates half of each head.
CONVERTIBLE = [name for name in VARIANTS if _has_an_original(name)]
OTHERS = [name for name in VARIANTS if name not in CONVERTIBLE]


def hugging_face_folder(
    path: Path, kind: Any = GlmForCausalLM, shard_bytes: int = 10**9, **changes: Any
) -> Path:
    """A random model in files of at most `shard_bytes`; norms and biases are no ones and zeros."""
    torch.manual_seed(0)
    model = kind(GlmConfig(**{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path, max_shard_bytes=shard_bytes)
    return path


def files(folder: Path) -> dict[str, bytes]:
    """All files by their path, with their bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_tensors(one: Path, other: Path) -> bool:
    """Whether both hold the same names with the same values in the same dtypes."""
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(
        t.dtype == second[name].dtype and torch.equal(t, second[name]) for name, t in first.items()
    )
