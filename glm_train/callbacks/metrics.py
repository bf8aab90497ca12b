"""Logs the scalars of a run. Only the guard against values that are not finite reads the device at every step."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from glm_train.tasks.base import GlmTask


class MetricsLogger(Callback):
    """Writes `train/*` every `log_every` steps and at the last one, and `val/*` after each validation.

    `tokens_per_second` counts all tokens of the steps since the last log, over the time they took; time spent in
    validation, saving and logging is not counted. `flops_per_token` and `peak_flops` (FLOP/s of the device) give
    `train/mfu`; without a known peak there is none. `latest` holds the newest values.
    """

    def __init__(
        self,
        *,
        log_every: int,
        total_steps: int,
        steps_per_epoch: int,
        flops_per_token: float,
        peak_flops: float | None,
        tokens_before: int = 0,
    ) -> None:
        self.log_every, self.total_steps, self.steps_per_epoch = log_every, total_steps, steps_per_epoch
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.tokens = tokens_before
        self.latest: dict[str, float] = {}
        self._seconds, self._tokens_at_log = 0.0, tokens_before
        self._began = 0.0

    def due(self, step: int) -> bool:
        """Whether the scalars of the step that was `step`-th are logged."""
        return step % self.log_every == 0 or step in (1, self.total_steps)

    def on_train_batch_start(
        self, trainer: Trainer, task: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        assert task.last is not None
        result = task.last
        self.tokens += result.tokens
        due = self.due(task.step)
        # Reading the loss waits for the device, so a logged step's clock stops after it.
        values = {"train/loss": result.loss.item(), "train/grad_norm": result.grad_norm.item()} if due else {}
        self._seconds += time.perf_counter() - self._began
        if due:
            rate = (self.tokens - self._tokens_at_log) / max(self._seconds, 1e-9)
            values |= {"train/tokens": self.tokens, "train/lr": result.lr, "train/tokens_per_second": rate}
            if self.peak_flops is not None:
                values["train/mfu"] = rate * self.flops_per_token / self.peak_flops
            self._seconds, self._tokens_at_log = 0.0, self.tokens
            self._log(trainer, task.step, values)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        self._log(trainer, task.step, task.validation)

    def _log(self, trainer: Trainer, step: int, values: dict[str, float]) -> None:
        self.latest.update(values)
        for logger in trainer.loggers:
            logger.log_metrics({"epoch": step / self.steps_per_epoch, **values}, step=step)
