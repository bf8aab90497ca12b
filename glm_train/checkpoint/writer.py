"""Saves run states one after the other, while the caller waits or while it goes on training.

    training     step 40 | copy | step 41 ...              | step 80 | copy | step 81 ...
    background           |      | write, publish, prune              |      | write ...

In the background a state is first copied into the memory of the CPU, each process's part by that process. At most two
states are under way, a third waits: the most it takes is twice the state's size. Processes talk about it over a group
of their own, so that training's calls and these never meet.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from glm_train import dist
from glm_train.checkpoint.sharded import Groups, prepare_save

_UNDER_WAY = 2  # states: the best model's and the resume state of the same step


class StateWriter:
    """Saves states in the order in which they come. All processes make one, and use it, together."""

    def __init__(self, *, background: bool = False) -> None:
        self.background = background
        self._group = dist.new_group() if background else None
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def save(
        self,
        directory: Path,
        name: str,
        *,
        tensors: Groups,
        own: Groups,
        meta: Mapping[str, Any],
        then: Callable[[], object],
    ) -> None:
        """Save a state as `sharded.prepare_save` says, and call `then` when it is on the disk.

        Raises `CheckpointError`, on all processes, where it fails, or where one before it has failed.
        """
        if self.background:
            self._wait_for_fewer_than(_UNDER_WAY)
        work = prepare_save(directory, name, tensors=tensors, own=own, meta=meta, copied=self.background)

        def job() -> None:
            work()
            then()

        if not self.background:
            job()
            return
        with self._changed:
            self._jobs.append(job)
            self._changed.notify_all()
            if self._thread is None:
                # A daemon: who stops a run at once does not wait for it. What it leaves half done is cleared away.
                self._thread = threading.Thread(target=self._write, name="states", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Return when all states are on the disk. Raises `CheckpointError` where one of them is not."""
        self._wait_for_fewer_than(1)

    def finish(self) -> None:
        """Let states that are under way end. For a run that failed: what they say comes second to that."""
        with suppress(Exception):
            self.wait()

    def _wait_for_fewer_than(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._failure is not None or len(self._jobs) < count)
            if self._failure is not None:
                raise self._failure

    def _write(self) -> None:
        with dist.over(self._group):
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: bool(self._jobs))
                    job = self._jobs[0]
                try:
                    job()
                except BaseException as error:
                    with self._changed:
                        self._failure = error
                        self._changed.notify_all()
                    return
                del job  # with its copies
                with self._changed:
                    self._jobs.popleft()
                    self._changed.notify_all()
