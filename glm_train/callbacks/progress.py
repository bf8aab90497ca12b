"""Progress: a live bar with step, loss, tokens/s and time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from glm_train.callbacks.metrics import MetricsLogger
from glm_train.tasks.base import GlmTask

_SHARES = ("accuracy", "f1", "precision", "recall", "auroc")  # what is shown in percent


def shown_scores(values: dict[str, float]) -> str:
    """The scores of a validation in one line; those of single labels are in metrics.csv."""
    parts = []
    for name, value in values.items():
        short = name.removeprefix("val/")
        if "/" not in short:
            share = any(short.split("_")[0] == word or short.endswith(word) for word in _SHARES)
            parts.append(f"{short.replace('_', ' ')} " + (f"{value:.1%}" if share else f"{value:.4g}"))
    return "  ".join(parts)


class ProgressReport(Callback):
    """Shows what `metrics` last logged. Validation results stay on the screen as a line each."""

    def __init__(self, metrics: MetricsLogger, console: Console | None = None) -> None:
        self.metrics = metrics
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._began, self._first_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        self._began, self._first_step = time.perf_counter(), task.step
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=30),
                TextColumn("{task.fields[shown]}"),
                TextColumn("·"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task("fit", total=self.metrics.total_steps, completed=task.step, shown="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=task.step, shown=self._shown())
        elif self.metrics.due(task.step):
            self.console.print(
                f"step {task.step:>6,}/{self.metrics.total_steps:,}  {self._shown()}  {self._left(task.step)}"
            )

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        epoch = task.step / self.metrics.steps_per_epoch
        self.console.print(f"step {task.step:>6,}  epoch {epoch:5.2f}  val {shown_scores(task.validation)}")

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _shown(self) -> str:
        values = self.metrics.latest
        loss, rate = values.get("train/loss", float("nan")), values.get("train/tokens_per_second", 0.0)
        return f"loss {loss:.4f}  {rate:,.0f} tokens/s"

    def _left(self, step: int) -> str:
        done = step - self._first_step
        seconds = (time.perf_counter() - self._began) / max(done, 1) * (self.metrics.total_steps - step)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
