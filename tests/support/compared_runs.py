"""Runs of `chat_smoke` that must agree, and how far they do.

The bound on weights is for AdamW: where a gradient is nothing but rounding (that of a key's bias is 0 in exact
arithmetic), its step is the rounding divided by itself. With eps far above the rounding, and the rate of these runs,
weights agree to WEIGHTS after 20 steps.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

STEPS, LOSS, WEIGHTS = 20, 1e-5, 2e-5


def overrides(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    """The run's overrides; those of `more` come before the shared ones."""
    settings: dict[str, object] = {
        "model.path": model,
        "data.train": data,
        "data.validation": data,
        "data.max_length": 96,
        "batch.documents": 1,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": STEPS,
        "trainer.validate_every": 10,
        "trainer.save_every": 10,
        "trainer.keep": 9,
        "trainer.log_every": 1,
        "optim.lr": 0.003,
        "optim.eps": 1e-3,
        "output_dir": output,
        **dict(setting.split("=", 1) for setting in more),
    }
    return [f"{key}={value}" for key, value in settings.items()]


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [
        {key: float(value) for key, value in row.items() if value and key != "train/tokens_per_second"}
        for row in found
    ]


def weights(folder: Path) -> dict[str, np.ndarray]:
    whole = folder / "model" / "model.safetensors"
    return load_file(whole if whole.exists() else folder / "model" / "adapter_model.safetensors")


def steps_seen(folder: Path, processes: int) -> dict[int, list[int]]:
    """The documents of each step that `processes` processes did here, by step, those of all processes in order."""
    seen: dict[int, list[int]] = {}
    for rank in range(processes):
        for step, documents in json.loads((folder / f"steps-{processes}-{rank}.json").read_text()):
            seen.setdefault(step, []).extend(documents)
    return {step: sorted(documents) for step, documents in seen.items()}


def agree(one: Path, other: Path) -> None:
    """Losses, scores, counts and weights of two runs."""
    expected, found = rows(one), rows(other)
    assert len(expected) == len(found) == STEPS
    for first, second in zip(expected, found, strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            bound = 1e-4 if key in ("train/grad_norm", "val/perplexity") else LOSS
            assert second[key] == pytest.approx(value, rel=bound, abs=bound), (first["step"], key)
    tensors, others = weights(one), weights(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == others[name].shape
        assert np.abs(tensor - others[name]).max() <= WEIGHTS, name
