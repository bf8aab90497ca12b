"""Two processes of one run: killed one at a time, all at once, or left without their parent; stopped; failing."""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fault_runs import (
    LIMIT,
    Command,
    assert_same,
    assert_whole_or_absent,
    done,
    gone,
    leftovers,
    newest_step,
    on_a_small_disk,
    server,
    settings,
)
from faults_in_runs import EVERYBODY

PROMPT = 30.0  # seconds in which all have ended, once one has failed: 15 of grace, and a busy machine
EVERY = 4  # trainer.save_every


def two(model: Path, chats: Path, output: Path, **more: Any) -> list[str]:
    return settings(model, chats, output, parallel="fsdp", trainer__devices=2, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> Path:
    """The run that nobody disturbs."""
    place = tmp_path_factory.mktemp("two")
    command = Command(two(model_folder, chat_file, place / "whole"), place / "log")
    assert command.wait() == 0, command.said
    return place / "whole"


def all_gone(pids: list[int]) -> bool:
    return all(map(gone, pids))


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".tmp-*"))


def has_stepped(command: Command, run: Path, inside: bool) -> bool:
    began, last = done(command)
    return last > began and (saving(run) or not inside)


def kill(command: Command, victim: str) -> None:
    ranks = command.ranks()
    pids = {"all": [command.pid, *ranks.values()], "parent": [command.pid]}.get(victim) or [
        ranks[int(victim)]
    ]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_kills_of_ranks_and_of_their_parent(
    tmp_path: Path, model_folder: Path, chat_file: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    reached, left = 0, set[Path]()
    for number, (victim, inside) in enumerate(
        [("0", True), ("1", False), ("parent", False), ("all", True), ("1", True)]
    ):
        command = Command(two(model_folder, chat_file, run), tmp_path / f"log-{number}", "slow_disk", 0.03)
        assert command.until(partial(has_stepped, command, run, inside)), command.said
        ranks = list(command.ranks().values())
        assert len(ranks) == 2
        kill(command, victim)
        began = time.monotonic()
        code = command.wait()
        while not all_gone(ranks):
            assert time.monotonic() - began < PROMPT, f"ranks run on without {victim}: {command.said}"
            time.sleep(0.01)
        assert code == (1 if victim in "01" else -signal.SIGKILL), command.said
        assert command.said.count("was killed by SIGKILL") == (victim in "01"), command.said
        assert "Traceback" not in command.said
        start, last = done(command)
        assert reached - start <= EVERY, command.said
        assert not left & leftovers(run)
        if victim == "parent":
            assert newest_step(run) >= last, "they save what was done"
        reached, left = max(reached, last), leftovers(run)
    final = Command(two(model_folder, chat_file, run), tmp_path / "log")
    assert final.wait() == 0, final.said
    assert_same(run, whole)


NOTHING_LOST = "before the first step: nothing is lost"
SAVED = "whose state is saved"
STOPS = [  # place, step, rank, to whom, what is said, the newest state afterwards
    ("data of the parent", 0, EVERYBODY, "signal", NOTHING_LOST, 0),
    ("start", 0, EVERYBODY, "signal", NOTHING_LOST, 0),
    ("model", 0, 1, "signal", NOTHING_LOST, 0),
    ("setup", 0, 0, "signal the parent", NOTHING_LOST, 0),
    ("step", 2, 1, "signal", SAVED, 2),
    ("save", 4, 0, "signal the parent", SAVED, 4),
    ("validation", 6, 1, "signal", SAVED, 6),
    ("validation", 0, 0, "signal", NOTHING_LOST, 6),
    ("step", 12, 1, "signal the parent", SAVED, 12),
    ("result", 0, 0, "signal the parent", "result is missing", 12),
]


@pytest.mark.slow
def test_a_signal_to_the_command_or_to_any_rank(
    tmp_path: Path, model_folder: Path, chat_file: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    for number, (place, step, rank, what, said, state) in enumerate(STOPS):
        signum = (signal.SIGTERM, signal.SIGINT)[number % 2]
        event = (place, step, rank, what, int(signum))
        command = Command(two(model_folder, chat_file, run), tmp_path / f"log-{number}", "at", event)
        assert command.wait() == 128 + signum, (place, command.said)
        assert command.said.count("glm-train: ") == 1, (place, command.said)
        assert command.said.count(said) == 1, (place, command.said)
        assert "Traceback" not in command.said, (place, command.said)
        assert newest_step(run) == state, (place, command.said)
        assert_whole_or_absent(run)
        assert not (run / "model").exists(), place
    final = Command(two(model_folder, chat_file, run), tmp_path / "log")
    assert final.wait() == 0, final.said
    assert_same(run, whole)


TRACEBACK, NO_ROOM = "Traceback (most recent call last)", "error: the run state needs "
FAILURES = [  # place, step, rank, what, its number, exit code, what is said
    ("model", 0, 1, "raise", 0, 1, TRACEBACK),
    ("step", 3, 1, "raise", 0, 1, TRACEBACK),
    ("save", 4, 0, "raise", 0, 1, TRACEBACK),
    ("before a save", 8, 1, "limit", 20_000, 2, NO_ROOM),  # the first save of this start has succeeded
    ("step", 8, 0, "exit", 7, 7, "error: rank 0 ended with exit code 7"),
    ("result", 0, 0, "raise", 0, 1, TRACEBACK),
]


@pytest.mark.slow
def test_a_rank_that_fails_says_why_and_takes_the_others_down(
    tmp_path: Path, model_folder: Path, chat_file: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    for number, (place, step, rank, what, detail, code, said) in enumerate(FAILURES):
        event = (place, step, rank, what, detail)
        command = Command(two(model_folder, chat_file, run), tmp_path / f"log-{number}", "at", event)
        command.until(partial(command.says, said or "step "))
        began = time.monotonic()
        assert command.wait() == code, (place, command.said)
        assert time.monotonic() - began < PROMPT or not said, place
        assert command.said.count("Traceback") == (said == TRACEBACK), (place, command.said)
        assert command.said.count(said) == 1 or not said, (place, command.said)
        if said == TRACEBACK:
            assert command.said.count(f"RuntimeError: a fault of rank {rank}\n") == 1, (place, command.said)
            assert command.said.rstrip().endswith("as shown above"), (place, command.said)
        if said == NO_ROOM:
            assert re.search(
                r"needs \d+ bytes .*, where \d+ bytes .* are free.*\(File too large\)", command.said
            )
            assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
        assert_whole_or_absent(run)
        assert not (run / "model").exists(), place
    final = Command(two(model_folder, chat_file, run), tmp_path / "log")
    assert final.wait() == 0, final.said
    assert_same(run, whole)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_a_save_and_during_the_result(
    tmp_path: Path, model_folder: Path, chat_file: Path, whole: Path
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    arguments = two(model_folder, chat_file, disk / "run")
    events = [("save", 8, 1, "fill the disk", 0), ("result", 0, 0, "fill the disk", 0), ()]
    starts = [(arguments, str(tmp_path / f"log-{n}"), event) for n, event in enumerate(events)]
    child = server().Process(target=on_a_small_disk, args=(str(disk), 8_000_000, starts, str(kept)))
    child.start()
    child.join(3 * LIMIT)
    if child.exitcode == 77:
        pytest.skip("no disk may be mounted here")
    assert child.exitcode == 0
    saving, finishing, last = ((tmp_path / f"log-{n}").read_text() for n in range(3))
    found = re.findall(
        r"needs (\d+) bytes .*, where (\d+) bytes .* are free: (\d+) bytes .* are missing", saving
    )
    assert len(found) == 1, saving
    needed, free, missing = map(int, found[0])
    assert missing == needed - free > 0
    assert saving.count("glm-train: error") == finishing.count("glm-train: error") == 1, finishing
    assert "No space left on device" in finishing
    assert "Traceback" not in saving + finishing
    assert [log.splitlines()[-1] for log in (saving, finishing, last)] == [
        f"exit code {code}" for code in (2, 2, 0)
    ]
    assert [path.name for path in (tmp_path / "kept-0" / "checkpoints").iterdir()] == ["step-00000004"]
    assert newest_step(tmp_path / "kept-0") == 4
    assert newest_step(tmp_path / "kept-1") == 12
    assert not (tmp_path / "kept-1" / "model").exists()
    assert_same(tmp_path / "kept-2", whole)
