"""Saves the state of a run so that it can go on as if never stopped, and puts a saved state back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from glm_train.callbacks.best import STATE_NAME, BestModel
from glm_train.callbacks.metrics import MetricsLogger
from glm_train.callbacks.validation import ValidationSchedule
from glm_train.checkpoint.resume import load_state, prune, save_state
from glm_train.errors import CheckpointError
from glm_train.tasks.base import GlmTask


@dataclass
class Resumed:
    """A saved state to go on from. `validated` is False where validation of that step was still to come."""

    step: int
    tokens: int
    validated: bool
    position: dict[str, Any]
    best: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def open_state(path: Path) -> Resumed:
    """Read a saved state. Raises `CheckpointError` where it is damaged or not one of a run."""
    tensors, meta = load_state(path)
    try:
        return Resumed(tensors=tensors, **meta)
    except TypeError:
        raise CheckpointError(f"{path}: its state.json was written by another version of glm-train") from None


class ResumeState(Callback):
    """Writes weights, optimizer, random state and position every `every` steps and at the end; keeps the `keep` newest.

    Where validation follows the step, the state is written after it, so that a saved step has all its rows. `position`
    describes the plan the step number counts in; it is stored, so that a resume under another plan can be refused.
    `resumed` is the state to go on from; its weights are in the model already.
    """

    def __init__(
        self,
        directory: Path,
        *,
        every: int,
        keep: int,
        position: dict[str, Any],
        metrics: MetricsLogger,
        validation: ValidationSchedule,
        best: BestModel,
        resumed: Resumed | None = None,
    ) -> None:
        self.directory, self.every, self.keep = directory, every, keep
        self.position, self.metrics, self.validation, self.best = position, metrics, validation, best
        self._resumed = resumed
        self._saved_step = self._validated_step = -1

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        if self._resumed is not None:
            restore_optimizer(trainer.optimizers[0], self._resumed.tensors)
            self._saved_step = self._resumed.step
            self._resumed = None  # as large as the optimizer's state: let it go

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        if self._due(task.step) and not self.validation.due(task.step):
            self.save(trainer, task)

    def on_validation_end(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        self._validated_step = task.step
        if trainer.state.fn == TrainerFn.FITTING and self._due(task.step):
            self.save(trainer, task)

    def save(self, trainer: Trainer, task: GlmTask) -> None:
        """Save the state after the step just done, unless that is done already."""
        if self._saved_step == task.step:
            return
        for logger in trainer.loggers:
            logger.save()  # rows of steps that will not run again must be on disk first
        validated = not self.validation.due(task.step) or self._validated_step == task.step
        meta = {
            "step": task.step,
            "tokens": self.metrics.tokens,
            "validated": validated,
            "position": self.position,
            "best": self.best.as_meta(),
        }
        name = STATE_NAME.format(step=task.step)
        save_state(self.directory, name, tensors=state_tensors(task, trainer.optimizers[0]), meta=meta)
        prune(self.directory, self.keep)
        self._saved_step = task.step

    def _due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.metrics.total_steps or self.best.exhausted


def state_tensors(task: GlmTask, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Everything a step depends on, by group and name. Weights that are tied appear once."""
    names = _parameter_names(optimizer)
    moments = {
        f"{names[index]}:{moment}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for moment, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return {"model": trained_weights(task.model), "optimizer": moments, "random": random}


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name: frozen ones are where they came from."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def restore_weights(model: nn.Module, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Put saved weights into the model. Raises `CheckpointError` where they are another model's."""
    saved = tensors.pop("model", {})  # once they are in the model nobody needs them
    parameters = trained_weights(model)
    if {n: p.shape for n, p in parameters.items()} != {n: t.shape for n, t in saved.items()}:
        raise CheckpointError(
            "the saved state holds the weights of another model: resume with the run's own model.path"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, dict[str, Tensor]]) -> None:
    """Put saved moments into the optimizer, and the random state into the process."""
    index_of = {name: index for index, name in enumerate(_parameter_names(optimizer))}
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        name, moment = key.rsplit(":", 1)
        states.setdefault(index_of[name], {})[moment] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random"]["cpu"].cpu())
    if "cuda" in tensors["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random"]["cuda"].cpu())


def _parameter_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """The parameters' names by the index that a state dict of the optimizer gives them."""
    return [name for group in optimizer.state_dict()["param_groups"] for name in group["param_names"]]
