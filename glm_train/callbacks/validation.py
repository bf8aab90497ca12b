"""Decides after which steps validation runs: Lightning counts batches since its start, a run counts its own steps."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from glm_train.tasks.base import GlmTask


class ValidationSchedule(Callback):
    """Validates every `every` steps and after the last of `total` (which Lightning does by itself)."""

    def __init__(self, every: int, total: int, *, enabled: bool) -> None:
        self.every, self.total, self.enabled = every, total, enabled

    def due(self, step: int) -> bool:
        """Whether validation follows the step that was `step`-th."""
        return self.enabled and (step % self.every == 0 or step == self.total)

    def on_train_batch_start(
        self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        trainer.val_check_batch = 1 if self.due(task.step + 1) else float("inf")
