"""Under a real trainer: the tasks learn what can be learnt, and validation finds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from glm_train.data.datamodule import GlmDataModule
from support.classifier_runs import RULES, examples_of, models, store_of, task_of

STEPS = 60


def learnable(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Documents whose ids decide their labels."""
    made = []
    for ids, _ in examples_of(kind, 60, seed=7, longest=8):
        ids = (ids % 12).astype(np.int32)
        if kind == "token":  # entities of two words: ids 0 and 1 begin one, whatever follows goes on with it
            labels = np.zeros(len(ids), np.int32)
            for place in range(len(ids) - 1):
                if ids[place] < 2 and not labels[place]:
                    labels[place : place + 2] = 2 * ids[place] + np.array([1, 2])
        elif kind == "values":
            labels = np.array([ids[-1] / 6 - 1, 0.5], np.float32).view(np.int32)
        else:
            labels = np.array([ids[-1] % 4], np.int32)
        made.append((ids, labels))
    return made


@pytest.mark.parametrize(
    ("kind", "measure", "least"),
    [("token", "f1", 0.75), ("single", "accuracy", 0.9), ("values", "pearson", 0.9)],
)
def test_what_can_be_learnt_is_learnt(tmp_path: Path, kind: str, measure: str, least: float) -> None:
    store = store_of(tmp_path / kind, kind, learnable(kind))
    task = task_of(kind, models(kind, initializer_range=0.1, num_hidden_layers=1)[0].train())
    task._make_optimizer = lambda module: torch.optim.AdamW(module.parameters(), lr=0.0)
    task._learning_rate = lambda step: 6e-3 * (1 - step / STEPS)
    data = GlmDataModule(
        store, store, seed=0, microbatches_per_step=2, steps_per_epoch=1, total_steps=STEPS, documents=15,
        validation_tokens=200, rule=RULES[kind],
    )  # fmt: skip
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, use_distributed_sampler=False, num_sanity_val_steps=0, **quiet
    )
    trainer.validate(task, datamodule=data, verbose=False)
    before = task.validation
    trainer.fit(task, datamodule=data)
    after = task.validation
    assert task.step == STEPS
    assert after["val/loss"] < 0.5 * before["val/loss"]
    assert before.get(f"val/{measure}", 0.0) < least <= after[f"val/{measure}"]
