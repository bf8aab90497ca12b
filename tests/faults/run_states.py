"""Small run states whose every number tells the step they were saved at."""

from __future__ import annotations

from pathlib import Path

import torch

from glm_train.checkpoint.resume import load_state, save_state


def state(value: float, size: int = 64) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"weight": torch.full((size,), value), "bias": torch.full((2,), value)},
        "optimizer": {"weight.m": torch.full((size,), -value)},
    }


def save(directory: Path, step: int, size: int = 64) -> Path:
    return save_state(directory, f"step-{step:08d}", tensors=state(float(step), size), meta={"step": step})


def assert_is_step(path: Path, step: int) -> None:
    """The state is whole and all of one step: no mixture of two saves."""
    tensors, meta = load_state(path)
    assert meta == {"step": step}
    assert tensors["model"]["weight"].eq(step).all()
    assert tensors["model"]["bias"].eq(step).all()
    assert tensors["optimizer"]["weight.m"].eq(-step).all()
