"""SIGTERM and Ctrl-C wherever a run may be: it saves, says so, and a resumed run ends as if never stopped."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
from fault_runs import Command, assert_same, assert_whole_or_absent, newest_step, settings
from faults_in_runs import EVERYBODY

NOTHING_LOST, SAVED, NO_RESULT = (
    "before the first step: nothing is lost",
    "whose state is saved",
    "after the last step, whose state is saved: only the result is missing",
)
PHASES = [  # place, not before this step, what is said, the newest state afterwards
    ("data", 0, NOTHING_LOST, 0),
    ("model", 0, NOTHING_LOST, 0),
    ("setup", 0, NOTHING_LOST, 0),
    ("step", 2, f"after step 2, {SAVED}", 2),
    ("save", 4, f"after step 4, {SAVED}", 4),
    ("samples", 5, f"after step 5, {SAVED}", 5),
    ("validation", 6, f"after step 6, {SAVED}", 6),
    ("validation", 0, NOTHING_LOST, 6),  # the one that the stop before left out
    ("best", 0, NOTHING_LOST, 6),
    ("before a save", 8, f"after step 8, {SAVED}", 8),
    ("step", 12, f"after step 12, {SAVED}", 12),
    ("result", 0, NO_RESULT, 12),
    ("report", 0, NO_RESULT, 12),
]
SAVED_12 = f"after step 12, {SAVED}"
AT_THE_END = [
    ("validation", SAVED_12),
    ("best", SAVED_12),
    ("end", SAVED_12),
    ("result", NO_RESULT),
    ("report", NO_RESULT),
]
SAVING = ["save", "rename", "remove"]


@pytest.mark.slow
def test_a_signal_in_every_phase(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    whole = Command(settings(model_folder, chat_file, tmp_path / "whole"), tmp_path / "log")
    run = tmp_path / "run"
    for number, (place, step, said, state) in enumerate(PHASES):
        signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
        event = (place, step, EVERYBODY, "signal", int(signum))
        command = Command(settings(model_folder, chat_file, run), tmp_path / f"log-{number}", "at", event)
        assert command.wait() == 128 + signum, (place, command.said)
        assert f"stopped by {signum.name} {said}" in command.said, place
        assert "Traceback" not in command.said, place
        assert newest_step(run) == state, place
        assert_whole_or_absent(run)
        assert (run / "model").exists() == (place == "report"), place
    assert whole.wait() == 0, whole.said
    last = Command(settings(model_folder, chat_file, run), tmp_path / "log-last")
    assert last.wait() == 0, last.said
    assert_same(run, tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_after_the_last_step(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    early = Command(
        settings(model_folder, chat_file, tmp_path / "early"),
        tmp_path / "log",
        "at",
        ("step", 11, EVERYBODY, "signal", int(signal.SIGTERM)),
    )
    whole = Command(settings(model_folder, chat_file, tmp_path / "whole"), tmp_path / "log-whole")
    assert early.wait() == 143, early.said
    assert whole.wait() == 0, whole.said
    for number, (place, said) in enumerate(AT_THE_END):
        signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
        run = tmp_path / f"run-{number}"
        shutil.copytree(tmp_path / "early", run)
        event = (place, 12, EVERYBODY, "signal", int(signum))
        command = Command(settings(model_folder, chat_file, run), tmp_path / f"log-{number}", "at", event)
        assert command.wait() == 128 + signum, (place, command.said)
        assert said in command.said, place
        assert "Traceback" not in command.said, place
        assert newest_step(run) == 12, place
        assert_whole_or_absent(run)
        assert (run / "model").exists() == (place == "report"), place
        last = Command(settings(model_folder, chat_file, run), tmp_path / f"log-{number}-last")
        assert last.wait() == 0, (place, last.said)
        assert_same(run, tmp_path / "whole")


@pytest.mark.slow
def test_a_second_signal_during_the_save(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    """A second Ctrl-C stops at once, wherever the save is; a second SIGTERM changes nothing."""
    whole = Command(settings(model_folder, chat_file, tmp_path / "whole"), tmp_path / "log")
    run, state = tmp_path / "run", 0
    term, ctrl_c = int(signal.SIGTERM), int(signal.SIGINT)
    cases = [(term, term, place) for place in SAVING]
    cases += [(first, ctrl_c, place) for first in (term, ctrl_c) for place in SAVING]
    for number, (first, second, place) in enumerate(cases):
        events = [("step", 0, EVERYBODY, "signal", first), (place, 0, EVERYBODY, "signal", second)]
        command = Command(settings(model_folder, chat_file, run), tmp_path / f"log-{number}", "at", *events)
        assert command.wait() == 128 + second, (place, command.said)
        assert "Traceback" not in command.said, place
        if second == term or place == "remove":  # of the oldest state, when the new one has its name
            state += 1
        said = f"after step {state}, whose state is saved" if second == term else "stopped by SIGINT at once"
        assert said in command.said, place
        assert newest_step(run) == state, (place, command.said)
        assert_whole_or_absent(run)
    assert whole.wait() == 0
    last = Command(settings(model_folder, chat_file, run), tmp_path / "log-last")
    assert last.wait() == 0, last.said
    assert_same(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_workers_of_the_data_too(
    tmp_path: Path, model_folder: Path, chat_file: Path, signum: signal.Signals
) -> None:
    """As Ctrl-C in a terminal does, and SLURM: all processes of the command have it, and the run saves all the same."""
    arguments = settings(model_folder, chat_file, tmp_path / "run", data__workers=2)
    event = ("step", 3, EVERYBODY, "signal the group", int(signum))
    command = Command(arguments, tmp_path / "log", "at", event)
    assert command.wait() == 128 + signum, command.said
    assert f"after step 3, {SAVED}" in command.said
    assert "Traceback" not in command.said
    assert newest_step(tmp_path / "run") == 3
