"""A signal that comes where validation is due: nothing is waited for, and nothing is missing afterwards."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from glm_train import run
from glm_train.callbacks.validation import ValidationSchedule
from glm_train.config.schema import RunConfig
from glm_train.parallel.signals import Stopped
from glm_train.tasks.chat import ChatTask
from support.runs import configure, rows


def config(model: Path, chats: Path, output: Path, resume: str = "never") -> RunConfig:
    return configure(
        model,
        chats,
        output,
        data__validation=chats,
        batch__documents=2,
        trainer__max_epochs=None,
        trainer__max_steps=8,
        trainer__validate_every=4,
        trainer__save_every=100,
        resume=resume,
    )


@pytest.mark.parametrize("step", [4, 5, 8])
def test_the_rows_are_those_of_a_run_never_stopped(
    tmp_path: Path, model_folder: Path, chat_file: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.fit(config(model_folder, chat_file, tmp_path / "whole"), "test")
    began = ValidationSchedule.on_train_batch_start

    def terminate(self, trainer, task, batch, batch_idx) -> None:
        if task.step + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        began(self, trainer, task, batch, batch_idx)

    monkeypatch.setattr(ValidationSchedule, "on_train_batch_start", terminate)
    with pytest.raises(Stopped, match=f"SIGTERM after step {step}"):
        run.fit(config(model_folder, chat_file, tmp_path / "part"), "test")
    monkeypatch.undo()
    run.fit(config(model_folder, chat_file, tmp_path / "part", resume="auto"), "test")
    assert rows(tmp_path / "part" / "metrics.csv") == rows(tmp_path / "whole" / "metrics.csv")


def test_a_signal_during_validation_does_not_wait_for_its_end(
    tmp_path: Path, model_folder: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.fit(config(model_folder, chat_file, tmp_path / "whole"), "test")
    validate = ChatTask.validation_step
    seen = []

    def terminate(self, microbatches, index) -> None:
        if self.step == 4:
            seen.append(index)
            os.kill(os.getpid(), signal.SIGTERM)
        validate(self, microbatches, index)

    monkeypatch.setattr(ChatTask, "validation_step", terminate)
    with pytest.raises(Stopped, match="SIGTERM after step 4"):
        run.fit(config(model_folder, chat_file, tmp_path / "part"), "test")
    assert seen == [0]
    monkeypatch.undo()
    run.fit(config(model_folder, chat_file, tmp_path / "part", resume="auto"), "test")
    assert rows(tmp_path / "part" / "metrics.csv") == rows(tmp_path / "whole" / "metrics.csv")


def test_a_finished_run_without_its_metrics_still_ends_well(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    run.fit(config(model_folder, chat_file, tmp_path / "run"), "test")
    (tmp_path / "run" / "metrics.csv").unlink()
    assert run.fit(config(model_folder, chat_file, tmp_path / "run", resume="auto"), "test").metrics == {}


def test_a_launchers_environment_is_refused(
    tmp_path: Path, model_folder: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(run.ConfigError, match="unset WORLD_SIZE"):
        run.fit(config(model_folder, chat_file, tmp_path / "run"), "test")
    assert not (tmp_path / "run").exists()


def test_what_was_left_out_of_the_files_is_said(
    tmp_path: Path, model_folder: Path, chat_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        data__max_length=24,
        data__truncation="drop",
        batch__tokens=200,
    )
    run.fit(short, "test")
    printed = capsys.readouterr().out
    assert "left out" in printed
    assert re.search(r"^data  .* tokens, \d+ trained \(\d\d\.\d%\)$", printed, re.M)
    assert re.search(r" tokens a step \(\d+ trained\)$", printed, re.M)
    assert f"{chat_file}:" in printed
