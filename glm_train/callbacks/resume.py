"""Saves the state of a run so that it can go on as if never stopped, and puts a saved state back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from glm_train.callbacks.metrics import MetricsLogger
from glm_train.checkpoint.resume import prune, save_state
from glm_train.tasks.base import GlmTask

STATE_NAME = "step-{step:08d}"


class ResumeState(Callback):
    """Writes weights, optimizer, random state and position every `every` steps and at the end; keeps the `keep` newest.

    `position` describes the plan the step number counts in (data, seed, batch settings); it is stored, so that a resume
    under another plan can be refused. `restored` is what `load_state` gave, to go on from; its weights are in the
    model already.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every: int,
        keep: int,
        position: dict[str, Any],
        metrics: MetricsLogger,
        restored: tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None = None,
    ) -> None:
        self.directory, self.every, self.keep = directory, every, keep
        self.position, self.metrics = position, metrics
        self._restored = restored
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        if self._restored is not None:
            tensors, meta = self._restored
            restore_optimizer(trainer.optimizers[0], tensors)
            task.step = self._saved_step = meta["step"]
            self._restored = None  # as large as the model: let it go

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        if task.step % self.every == 0 or task.step == self.metrics.total_steps:
            self.save(trainer, task)

    def save(self, trainer: Trainer, task: GlmTask) -> None:
        """Save the state after the step just done, unless that is done already."""
        if self._saved_step == task.step:
            return
        for logger in trainer.loggers:
            logger.save()  # rows of steps that will not run again must be on disk first
        meta = {"step": task.step, "tokens": self.metrics.tokens, "position": self.position}
        save_state(
            self.directory,
            STATE_NAME.format(step=task.step),
            tensors=state_tensors(task, trainer.optimizers[0]),
            meta=meta,
        )
        prune(self.directory, self.keep)
        self._saved_step = task.step


def state_tensors(task: GlmTask, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Everything a step depends on, by group and name. Weights that are tied appear once."""
    moments = {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    weights = {name: parameter.detach() for name, parameter in task.model.named_parameters()}
    return {"model": weights, "optimizer": moments, "random": random}


def restore_weights(model: nn.Module, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Put saved weights into the model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors["model"][name])


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Put saved moments into the optimizer, and the random state into the process."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"]["cpu"].cpu())
    if "cuda" in tensors["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random"]["cuda"].cpu())
