"""Runs of the real path, composed from a shipped recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from glm_train.config.compose import compose
from glm_train.config.schema import RunConfig


def configure(model: Path, chats: Path, output: Path | None, *overrides: str, **settings: Any) -> RunConfig:
    """The `chat_smoke` recipe on a tiny model and chats; keyword `optim__lr=1` is `optim.lr=1`."""
    values = {
        "model.path": model,
        "data.train": chats,
        "data.max_length": 96,
        "trainer.accelerator": "cpu",
        "trainer.log_every": 1,
        "trainer.max_epochs": 2,
        "trainer.max_steps": None,
        "output_dir": output,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return compose(
        "chat_smoke", [*(f"{k}={'null' if v is None else v}" for k, v in values.items()), *overrides]
    )


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a run's resulting model."""
    return load_file(folder / "model" / "model.safetensors")


def rows(metrics: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns that depend on the clock."""
    import csv

    with metrics.open(newline="", encoding="utf-8") as file:
        return [
            {k: v for k, v in row.items() if k != "train/tokens_per_second"} for row in csv.DictReader(file)
        ]
