"""SIGKILL at random moments and at every step of a save; a limit that the kernel enforces in the middle of a file."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_runs import server
from run_states import assert_is_step, save, state

from glm_train.checkpoint import safetensors_file
from glm_train.checkpoint.resume import load_state, newest_valid, prune, save_state
from glm_train.errors import CheckpointError


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    return server()


def save_until_killed(directory: str, started: threading.Event) -> None:
    step = newest_step(Path(directory))
    started.set()
    while True:
        step += 1
        save(Path(directory), step, size=200_000)
        prune(directory, keep=2)


def newest_step(directory: Path) -> int:
    path, _ = newest_valid(directory)
    return load_state(path)[1]["step"] if path else 0


def test_killed_at_random_moments(
    tmp_path: Path, processes: multiprocessing.context.ForkServerContext
) -> None:
    chance = random.Random(0)
    reached = 0
    for _ in range(12):
        started = processes.Event()
        child = processes.Process(target=save_until_killed, args=(str(tmp_path), started))
        child.start()
        assert started.wait(60)
        time.sleep(chance.uniform(0, 0.2))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        before = sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("."))
        path, reasons = newest_valid(tmp_path)
        assert reasons == []
        assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is lost or leaked"
        if path is not None:
            assert path.name == before[-1]
            step = int(path.name.removeprefix("step-"))
            assert_is_step(path, step)
            assert step >= reached
            reached = step
    assert reached > 10, "the children did save"


def die_at(call: int, directory: str, job: str) -> None:
    """Do `job`, and die by SIGKILL just before the n-th operation that changes the disk."""
    calls = 0

    def fatal(real: Callable) -> Callable:
        def wrapper(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return wrapper

    for name in ("mkdir", "rename", "fsync", "unlink", "rmdir"):
        setattr(os, name, fatal(getattr(os, name)))
    safetensors_file._pieces = slowly(fatal)
    path = Path(directory)
    if job == "new":
        save(path, 3)
    elif job == "replace":
        save_state(path, "step-00000002", tensors=state(2.0), meta={"step": 2})
    else:
        prune(path, keep=1)


def slowly(fatal: Callable) -> Callable:
    """The pieces of a file, with a chance to die before each."""
    real = safetensors_file._pieces
    tick = fatal(lambda: None)

    def pieces(*args: object) -> object:
        for piece in real(*args):
            tick()
            yield piece

    return pieces


@pytest.mark.parametrize(("job", "allowed"), [("new", {2, 3}), ("replace", {2}), ("prune", {2})])
def test_killed_at_every_single_step(
    tmp_path: Path, processes: multiprocessing.context.ForkServerContext, job: str, allowed: set[int]
) -> None:
    survived, call = False, 0
    while not survived:
        call += 1
        directory = tmp_path / str(call)
        for step in (1, 2):
            save(directory, step)
        child = processes.Process(target=die_at, args=(call, str(directory), job))
        child.start()
        child.join()
        survived = child.exitcode == 0
        assert survived or child.exitcode == -signal.SIGKILL
        path, reasons = newest_valid(directory)
        assert reasons == []
        step = int(path.name.removeprefix("step-"))
        assert step in allowed
        assert_is_step(path, step)
        for found in directory.iterdir():
            assert_is_step(found, int(found.name.removeprefix("step-")))
    assert call > 5, "there were steps to die at"


def save_under_a_limit(directory: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(CheckpointError, match=r"needs \d+ bytes .* are free.*File too large"):
        save(Path(directory), 2, size=100_000)


def test_file_size_limit_of_the_system(
    tmp_path: Path, processes: multiprocessing.context.ForkServerContext
) -> None:
    """A real refusal by the kernel in the middle of a file."""
    save(tmp_path, 1, size=100_000)
    child = processes.Process(target=save_under_a_limit, args=(str(tmp_path), 100_000))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert_is_step(tmp_path / "step-00000001", 1)
