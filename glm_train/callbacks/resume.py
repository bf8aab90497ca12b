"""Saves the state of a run so that it can go on as if never stopped, and puts a saved state back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from glm_train import dist
from glm_train.callbacks.best import STATE_NAME, BestModel
from glm_train.callbacks.metrics import MetricsLogger
from glm_train.callbacks.validation import ValidationSchedule
from glm_train.checkpoint.resume import prune
from glm_train.checkpoint.sharded import open_state as open_saved
from glm_train.checkpoint.slices import Saved, like, put
from glm_train.checkpoint.writer import StateWriter
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
    tensors: Saved  # on the disk until they are used


def open_state(path: Path) -> Resumed:
    """Check a saved state, of any number of processes. Raises `CheckpointError` where it is damaged or not a run's."""
    tensors, meta = open_saved(path, checked=dist.rank() > 0)  # once is enough
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
        writer: StateWriter,
        resumed: Resumed | None = None,
    ) -> None:
        self.directory, self.every, self.keep = directory, every, keep
        self.position, self.metrics, self.validation, self.best = position, metrics, validation, best
        self._writer, self._resumed = writer, resumed
        self._saved_step = self._validated_step = -1

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        if self._resumed is not None:
            restore_optimizer(trainer.optimizers[0], self._resumed.tensors)
            self._saved_step = self._resumed.step
            self._resumed = None  # it has served

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
        """Save the state after the step just done, unless that is done already; `writer` says when it is there."""
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
        tensors = state_tensors(task, trainer.optimizers[0])
        own = {"random": random_state()}
        self._writer.save(self.directory, name, tensors=tensors, own=own, meta=meta, then=self._prune)
        self._saved_step = task.step

    def save_now(self, trainer: Trainer, task: GlmTask) -> None:
        """`save`, and return when all states are on the disk."""
        self.save(trainer, task)
        self._writer.wait()

    def _prune(self) -> None:
        if dist.rank() == 0:
            prune(self.directory, self.keep)

    def _due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.metrics.total_steps or self.best.exhausted


def state_tensors(task: GlmTask, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """All that a step changes, by group and name, shared out as it is. Weights that are tied appear once."""
    names = _parameter_names(optimizer)
    moments = {
        f"{names[index]}:{moment}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for moment, value in state.items()
    }
    return {"model": trained_weights(task.model), "optimizer": moments}


def random_state() -> dict[str, Tensor]:
    """Where this process's random numbers go on."""
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    return random


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that training changes, by name: frozen ones are where they came from."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def restore_weights(model: nn.Module, tensors: Saved) -> None:
    """Put saved weights into the model, or into what this process has of it.

    Raises `CheckpointError` where they are another model's.
    """
    saved, parameters = tensors.get("model", {}), trained_weights(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in saved.items()}
    if {name: tuple(p.shape) for name, p in parameters.items()} != shapes:
        raise CheckpointError(
            "the saved state holds the weights of another model: resume with the run's own model.path"
        )
    for name, parameter in parameters.items():
        put(parameter, saved[name])


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Saved) -> None:
    """Put saved moments into the optimizer, and the random state into the process where it was saved for it."""
    names = _parameter_names(optimizer)
    index_of = {name: index for index, name in enumerate(names)}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors["optimizer"].items():
        name, moment = key.rsplit(":", 1)
        index = index_of[name]
        states.setdefault(index, {})[moment] = like(value, parameters[index])
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    for name, restore in (("cpu", torch.set_rng_state), ("cuda", torch.cuda.set_rng_state)):
        saved = tensors["random"].get(f"{dist.rank()}:{name}")
        if saved is None and dist.rank() == 0:
            saved = tensors["random"].get(name)  # of a run of one process
        if saved is not None and (name == "cpu" or torch.cuda.is_available()):
            restore(saved.cpu() if isinstance(saved, Tensor) else saved.whole())


def _parameter_names(optimizer: torch.optim.Optimizer) -> list[str]:
    """The parameters' names by the index that a state dict of the optimizer gives them."""
    return [name for group in optimizer.state_dict()["param_groups"] for name in group["param_names"]]
