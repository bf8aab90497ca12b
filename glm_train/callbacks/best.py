"""Keeps the model of the best validation, and ends a run that no longer gets better."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from glm_train import dist
from glm_train.checkpoint.sharded import open_state
from glm_train.checkpoint.slices import SavedTensor
from glm_train.checkpoint.writer import StateWriter
from glm_train.errors import CheckpointError, ConfigError, nearest
from glm_train.tasks.base import GlmTask

_LOWER_IS_BETTER = ("val/loss", "val/mse", "val/perplexity")
_MAY_BE_ABSENT = ("val/auroc", "val/pearson", "val/spearman")  # of a constant prediction, say: no such number
STATE_NAME = "step-{step:08d}"


@dataclass(frozen=True)
class Best:
    """The best validation so far: its value and step, and the validations since then that were no better."""

    value: float | None = None
    step: int = 0
    waited: int = 0

    def better(self, value: float, metric: str) -> bool:
        """Whether `value` beats it. What is no number never does, an equal value neither: the earlier model stays."""
        if math.isnan(value):
            return False
        if self.value is None:
            return True
        return value < self.value if metric in _LOWER_IS_BETTER else value > self.value


class BestModel(Callback):
    """After each validation compares `metric`, as `task.validation` has it, with the best so far.

    Where `directory` is given, the trained weights of a better one are saved there, as a state that is complete or
    absent. After `patience` validations in a row without a better one the run ends. `best` is part of the run's resume
    state: a resumed run goes on counting.
    """

    def __init__(
        self,
        metric: str,
        *,
        directory: Path | None,
        patience: int | None,
        weights: Callable[[nn.Module], dict[str, Tensor]],
        writer: StateWriter,
        best: Best | None = None,
    ) -> None:
        self.metric, self.directory, self.patience = metric, directory, patience
        self.best = best or Best()
        if directory is not None and self.best.step and not self._folder(self.best.step).is_dir():
            # The state is from before a later best, or from a run that kept none: the next validation is the best.
            self.best = Best(waited=self.best.waited)
        self.tables: list[str] = []  # of the best validation; none where it was before a resume
        self._weights, self._writer = weights, writer

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.best.waited >= self.patience

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        value = self._value(task.validation)
        if self.best.better(value, self.metric):
            before = self.best.step
            self.best, self.tables = Best(value, task.step), list(task.tables)
            if self.directory is not None:
                self._save(task, before)
        else:
            self.best = Best(self.best.value, self.best.step, self.best.waited + 1)
        if self.exhausted and trainer.state.fn == TrainerFn.FITTING:
            trainer.should_stop = True

    def __str__(self) -> str:
        return f"{self.metric} {self.best.value:.4g} at step {self.best.step:,}" if self.best.step else "none"

    def as_meta(self) -> dict[str, Any]:
        """Plain JSON, from which `Best(**meta)` comes back."""
        return asdict(self.best)

    def weights(self) -> dict[str, SavedTensor]:
        """The saved weights of the best validation. Raises `CheckpointError` where they are gone."""
        assert self.directory is not None
        path = self._folder(self.best.step)
        if not path.is_dir():
            raise CheckpointError(
                f"{path}: the model of the best validation is gone. The run's last model is in its newest state:"
                " resume with trainer.result=last"
            )
        return open_state(path, checked=dist.rank() > 0)[0]["model"]

    def _value(self, found: dict[str, float]) -> float:
        if self.metric in _MAY_BE_ABSENT:
            return found.get(self.metric, math.nan)
        if self.metric not in found:
            raise ConfigError(
                f"task.metric={self.metric}: validation has no such value, only {', '.join(found)}."
                + nearest(self.metric, found)
            )
        return found[self.metric]

    def _folder(self, step: int) -> Path:
        assert self.directory is not None
        return self.directory / STATE_NAME.format(step=step)

    def _save(self, task: GlmTask, before: int) -> None:
        """Save the weights. `before` is the step of the best so far."""
        assert self.directory is not None
        name = STATE_NAME.format(step=task.step)
        meta = {"metric": self.metric, **self.as_meta()}
        tensors = {"model": self._weights(task.model)}
        kept = {self._folder(before), self._folder(task.step)}
        self._writer.save(
            self.directory, name, tensors=tensors, own={}, meta=meta, then=lambda: self._remove_others(kept)
        )

    def _remove_others(self, kept: set[Path]) -> None:
        """The one before stays: a run that is killed now goes on from a state that still names it. Others go, also
        later ones: they are of a course of the run that was left, when it was resumed from before them."""
        assert self.directory is not None
        if dist.rank() == 0:
            for other in set(self.directory.glob("step-*")) - kept:
                shutil.rmtree(other, ignore_errors=True)
