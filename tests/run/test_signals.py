"""SIGTERM and Ctrl-C through the real command: the state is saved, the exit code says so, the run can go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glm_train import run
from support.runs import configure, weights

STEPS = 200


def command(model: Path, chats: Path, output: Path, *more: str) -> list[str]:
    settings = {
        "model.path": model,
        "data.train": chats,
        "data.max_length": 96,
        "trainer.max_steps": STEPS,
        "batch.documents": 1,
        "trainer.save_every": 10**6,
        "optim.lr": 0.01,
        "output_dir": output,
    }
    arguments = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "glm_train", "fit", "chat_smoke", *arguments, *more]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_to_the_same_end(
    tmp_path: Path, model_folder: Path, chat_file: Path, signum: int, code: int
) -> None:
    output = tmp_path / "run"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(model_folder, chat_file, output),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step") and "/" in line and "loss" in line:
                process.send_signal(signum)  # during the steps, wherever they are
                break
        _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "whose state is saved" in errors
    assert "Traceback" not in errors
    assert not (output / "model").exists()
    states = list((output / "checkpoints").iterdir())
    assert len(states) == 1
    assert 0 < int(states[0].name.removeprefix("step-")) < STEPS

    settings = {
        "data__max_length": 96,
        "trainer__max_epochs": None,
        "trainer__max_steps": STEPS,
        "batch__documents": 1,
        "optim__lr": 0.01,
    }
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run.fit(configure(model_folder, chat_file, output, resume="auto", **settings), "test")
        run.fit(configure(model_folder, chat_file, tmp_path / "whole", **settings), "test")
    finally:
        torch.set_num_threads(threads)
    expected = weights(tmp_path / "whole")
    assert all(np.array_equal(expected[name], tensor) for name, tensor in weights(output).items())


def test_a_second_ctrl_c_stops_at_once() -> None:
    from glm_train.callbacks.preemption import StopOnSignal
    from glm_train.parallel.signals import Stopped

    stopper = StopOnSignal(lambda trainer, task: None)
    stopper._note(signal.SIGINT, None)
    with pytest.raises(Stopped, match="at once") as stopped:
        stopper._note(signal.SIGINT, None)
    assert stopped.value.exit_code == 130


def test_training_ends_when_the_states_under_way_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on a signal stops at once, and says that only the result is missing."""
    from types import SimpleNamespace
    from typing import Any

    from glm_train.callbacks import preemption
    from glm_train.tasks.base import GlmTask

    order: list[str] = []
    monkeypatch.setattr(preemption, "steps_are_done", lambda folder: order.append("done"))
    stopper = preemption.StopOnSignal(lambda trainer, task: order.append("saved"))
    trainer: Any = SimpleNamespace(default_root_dir="run")
    stopper.on_train_end(trainer, GlmTask.__new__(GlmTask))
    assert order == ["saved", "done"]


def test_a_signal_while_a_failure_is_told_has_no_effect() -> None:
    from glm_train.parallel.signals import Stopped, heeded, unheard

    with heeded():
        with unheard():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
