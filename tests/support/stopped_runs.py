"""Runs that are stopped in the middle of a step, by SIGTERM or by a failure, and go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from glm_train import run
from glm_train.config.schema import RunConfig
from glm_train.parallel.signals import Stopped
from glm_train.tasks.base import GlmTask
from support.fitted import same, state


class Crash(Exception):
    """What a run does not expect: it ends without saving."""


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise Crash


class Interrupted(list[Any]):
    """The microbatches of a step. Once the first has been through forward and backward, `interrupt` is called."""

    def __init__(self, microbatches: Sequence[Any], interrupt: Callable[[], None]) -> None:
        super().__init__(microbatches)
        self.interrupt: Callable[[], None] | None = interrupt

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            yield batch
            interrupt, self.interrupt = self.interrupt, None
            if interrupt is not None:
                interrupt()


def run_to(config: RunConfig, step: int, interrupt: Callable[[], None]) -> None:
    """Run until `interrupt` comes within `step`, counted from 1."""
    plain = GlmTask.training_step

    def interrupted(self: GlmTask, microbatches: Sequence[Any], index: int) -> None:
        there = self.step + 1 == step
        plain(self, Interrupted(microbatches, interrupt) if there else microbatches, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GlmTask, "training_step", interrupted)
        if interrupt is crash:
            with pytest.raises(Crash):
                run.fit(config, "test")
        else:
            with pytest.raises(Stopped, match=f"SIGTERM after step {step},"):
                run.fit(config, "test")


def run_in_pieces(
    config: Callable[..., RunConfig],
    whole: Path,
    part: Path,
    stops: Sequence[int],
    crashes: Sequence[int] = (),
) -> int:
    """Stop at each of `stops` and go on from there, fail within `crashes`; the steps of the whole run in the end.

    Every state that a stop leaves must be that of `whole` after the same step, bit for bit: so what happens between two
    stops is what happens in a run that was never stopped.
    """
    resume = "never"
    for step in sorted({*stops, *crashes}):
        run_to(config(part, resume), step, crash if step in crashes else terminate)
        resume = "auto"
        newest = max((part / "checkpoints").iterdir())
        assert int(newest.name.removeprefix("step-")) == max(s for s in stops if s <= step)
        if step in stops:
            assert same(state(part, step), state(whole, step)), f"after step {step}"
    return run.fit(config(part, resume), "test").steps
