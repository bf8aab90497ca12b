"""SIGTERM and Ctrl-C, to any process of a run: finish the step, save, stop. A second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from glm_train import dist
from glm_train.parallel.signals import SIGNALS, Stopped, steps_are_done
from glm_train.tasks.base import GlmTask


class StopOnSignal(Callback):
    """Calls `save` at the step boundary after a signal and raises `Stopped`, after the last step too.

    Validation is not waited for: who sends SIGTERM may send SIGKILL soon. A resumed run makes up for it.
    """

    def __init__(self, save: Callable[[Trainer, GlmTask], None]) -> None:
        self._save = save
        self._signum: int | None = None
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        # Here, not earlier: Lightning puts its own handlers in place when it starts, which exit with 0.
        self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._stop_if_asked(trainer, task)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        task: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._stop_if_asked(trainer, task)

    def on_train_end(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        self._save(trainer, task)  # it may be under way
        self._stop_if_asked(trainer, task)
        steps_are_done(Path(trainer.default_root_dir))
        self._restore()

    def on_exception(self, trainer: Trainer, task: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _stop_if_asked(self, trainer: Trainer, task: LightningModule) -> None:
        assert isinstance(task, GlmTask)
        # A process alone cannot stop: the others would wait for it. So all hear of any one's signal, here.
        signum = dist.largest(self._signum or 0)
        if signum:
            self._signum = signum
            self._save(trainer, task)
            raise Stopped(signum, task.step)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that was forked from here; its parent ends it
        if self._signum is not None and signum == signal.SIGINT:
            raise Stopped(signum, None)  # not KeyboardInterrupt, which Lightning turns into exit code 1
        self._signum = signum

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}
