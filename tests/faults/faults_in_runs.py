"""What is put into a child's `glm-train` to have it fail, or be stopped, at a certain place."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import glm_train.launch
import glm_train.run
from glm_train import dist
from glm_train.callbacks import samples
from glm_train.callbacks.best import BestModel
from glm_train.callbacks.preemption import StopOnSignal
from glm_train.callbacks.resume import ResumeState
from glm_train.checkpoint import safetensors_file
from glm_train.tasks.base import GlmTask
from glm_train.tasks.chat import ChatTask
from glm_train.text.tokenizer import GlmTokenizer

EVERYBODY = -1
_step = 0  # the step at work, or the last one


def slow_disk(seconds: float) -> None:
    """Every piece of a file and every flush takes that long, so that a run is mostly saving."""
    pieces, fsync = safetensors_file._pieces, os.fsync

    def slowly(*args: Any) -> Any:
        for piece in pieces(*args):
            time.sleep(seconds)
            yield piece

    def flush(handle: int) -> None:
        time.sleep(seconds)
        fsync(handle)

    safetensors_file._pieces = slowly
    os.fsync = flush


def at(*events: tuple[str, int, int, str, int]) -> None:
    """Of each event `(place, from_step, rank, what, number)` the first time that the rank comes to the place.

    `from_step`: not before that step is at work. `what`: `signal` to itself, `signal the parent`, `signal the
    group`, `raise`, `exit`,
    `limit` of the size of its files, `fill the disk` of the new file FULL_DISK. An event waits for those before it.
    """
    waiting = list(events)

    def came_to(place: str) -> None:
        if not waiting:
            return
        where, step, rank, what, number = waiting[0]
        if where == place and _step >= step:
            waiting.pop(0)
            if rank in (EVERYBODY, int(os.environ.get("RANK", "0"))):
                _do(what, number)
            came_to(place)

    _watch(came_to)


def _do(what: str, number: int) -> None:
    if what == "signal":
        os.kill(os.getpid(), number)
    elif what == "signal the parent":
        os.kill(os.getppid(), number)
        time.sleep(0.3)  # it has passed it on by then
    elif what == "signal the group":
        os.killpg(0, number)
        time.sleep(0.3)  # its workers have it by then
    elif what == "raise":
        raise RuntimeError(f"a fault of rank {dist.rank()}")
    elif what == "exit":
        os._exit(number)
    elif what == "fill the disk":
        with suppress(OSError), Path(os.environ["FULL_DISK"]).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
    elif what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, resource.RLIM_INFINITY))


def _watch(came_to: Callable[[str], None]) -> None:
    """Call `came_to` wherever a run comes to, with the place's name, before it goes on there."""

    def before(owner: Any, name: str, place: str) -> None:
        real = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            came_to(place)
            return real(*args, **kwargs)

        setattr(owner, name, wrapper)

    before(glm_train.launch, "build_data", "data of the parent")
    before(glm_train.launch, "start_processes", "start")
    before(glm_train.run, "build_data", "data")
    before(glm_train.run, "build_model", "model")
    before(GlmTask, "configure_optimizers", "setup")
    before(ChatTask, "validation_step", "validation")
    before(samples, "answer_samples", "samples")
    before(BestModel, "_save", "best")
    before(ResumeState, "save", "before a save")
    before(StopOnSignal, "on_train_end", "end")
    before(GlmTokenizer, "save_pretrained", "result")
    before(glm_train.run, "write_report", "report")
    before(os, "rename", "rename")
    before(shutil, "rmtree", "remove")
    pieces, step = safetensors_file._pieces, GlmTask.training_step

    def count(task: GlmTask, *args: Any) -> Any:
        global _step
        _step = task.step + 1
        came_to("step")
        return step(task, *args)

    def written(*args: Any) -> Any:
        for piece in pieces(*args):
            yield piece
            came_to("save")

    GlmTask.training_step = count  # type: ignore[method-assign]
    safetensors_file._pieces = written
