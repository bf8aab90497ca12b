"""SIGTERM and Ctrl-C, from the first moment of a command to its last.

While the steps run, a signal is noted and the run stops where it can save (`callbacks/preemption.py`). Before and after
them there is nothing to save, and the command stops at once: `heeded`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_BEFORE_STEPS = "before the first step: nothing is lost"
_AFTER_STEPS = "after the last step, whose state is saved: only the result is missing"


class Stopped(BaseException):
    """A signal ended the run: after `saved_step` was saved, or at once (None), and then `when` says at what point.

    Not an `Exception`: it may come anywhere, and what is tried there must not swallow it.
    """

    def __init__(self, signum: int, saved_step: int | None, when: str = "at once") -> None:
        what = when if saved_step is None else f"after step {saved_step}, whose state is saved"
        super().__init__(f"stopped by {signal.Signals(signum).name} {what}")
        self.exit_code = 128 + signum
        self.at_once = saved_step is None
        self.folder: Path | None = None  # of the run, once it is known
        self.advice = ""  # how to go on, once it is known


class _Place:
    """How far the run of this process is, for a signal that stops it at once."""

    folder: Path | None = None  # once the last step is done


@contextmanager
def heeded() -> Iterator[None]:
    """Until the end of the block a signal raises `Stopped`, where nobody puts another handler in its place."""
    owner = os.getpid()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return  # a worker that was forked; its parent ends it
        stopped = Stopped(signum, None, _BEFORE_STEPS if _Place.folder is None else _AFTER_STEPS)
        stopped.folder = _Place.folder
        raise stopped

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    finally:
        _Place.folder = None
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def unheard() -> Iterator[None]:
    """Inside, signals have no effect: a run that has failed ends anyway, and why must not be lost."""
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def steps_are_done(folder: Path) -> None:
    """From here on only the result of the run in `folder` is missing."""
    _Place.folder = folder
