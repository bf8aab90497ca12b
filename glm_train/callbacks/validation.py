"""Decides after which steps validation runs: Lightning counts batches since its start, a run counts its own steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from glm_train.tasks.base import GlmTask


class ValidationSchedule(Callback):
    """Validates every `every` steps, and after the last one (which Lightning does by itself)."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_start(
        self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        trainer.val_check_batch = 1 if (task.step + 1) % self.every == 0 else float("inf")
