"""SIGKILL at random moments of a run, half of them inside a save: it always goes on, and ends as if never killed."""

from __future__ import annotations

import random
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from fault_runs import Command, assert_same, done, leftovers, settings

EVERY = 3  # trainer.save_every
STEPS = 60
KILLS = 20


def long_run(model: Path, chats: Path, output: Path) -> list[str]:
    return settings(
        model,
        chats,
        output,
        trainer__max_steps=STEPS,
        trainer__save_every=EVERY,
        trainer__validate_every=7,
    )


def saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".tmp-*"))


def made(command: Command, steps: int) -> bool:
    """Whether this start has made so many steps."""
    began, last = done(command)
    return last - began >= steps


class Killing:
    """Starts one run again and again, and sees after each kill what it had and what it lost."""

    def __init__(self, arguments: list[str], run: Path, place: Path) -> None:
        self.arguments, self.run, self.place = arguments, run, place
        self.reached = self.starts = 0
        self.left: set[Path] = set()

    def start(self, fault: str = "", *details: float) -> Command:
        self.starts += 1
        return Command(self.arguments, self.place / f"log-{self.starts}", fault, *details)

    def settle(self, command: Command) -> None:
        """After its end: what the kill before left is gone, and no more than a save interval was lost."""
        began, last = done(command)
        if last > began:  # a step was made, so the start is over
            assert self.reached - began <= EVERY, command.said
            assert not self.left & leftovers(self.run), command.said
        assert "skipped" not in command.said, "no state is damaged"
        self.reached = max(self.reached, last)
        self.left = leftovers(self.run)


@pytest.mark.slow
def test_twenty_kills_lose_at_most_a_save_interval_each(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    chance = random.Random(0)
    whole = Command(long_run(model_folder, chat_file, tmp_path / "whole"), tmp_path / "log")
    run = tmp_path / "run"
    killing = Killing(long_run(model_folder, chat_file, run), run, tmp_path)
    inside = outside = 0
    while (inside < KILLS // 2 or outside < KILLS // 2) and killing.starts < 2 * KILLS:
        command = killing.start("slow_disk", 0.01)
        if inside <= outside:
            for _ in range(chance.randrange(2)):  # saves that it may finish first
                assert command.until(lambda: saving(run)), command.said
                command.until(lambda: not saving(run))
            assert command.until(lambda: saving(run)), command.said
            time.sleep(chance.uniform(0, 0.08))
        elif steps := chance.randrange(7):
            assert command.until(partial(made, command, steps)), command.said
            time.sleep(chance.uniform(0, 0.05))
        else:
            time.sleep(chance.uniform(0, 1.5))  # before the first step
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.said
        inside, outside = inside + saving(run), outside + (not saving(run))
        killing.settle(command)
    assert inside + outside >= KILLS
    assert killing.reached > 7, "a validation was behind it"
    for name in (
        ".tmp-model-1/config.json",
        "best/.tmp-step-00000007-1/model.safetensors",
        "metrics.csv.tmp",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("of a kill at another moment")
    killing.left = leftovers(run)
    last = killing.start()
    assert last.until(lambda: "loss" in last.said), last.said  # its first step
    assert not killing.left & leftovers(run), "the start removes it"
    assert last.wait() == 0, last.said
    killing.settle(last)
    assert killing.left == set()
    assert whole.wait() == 0
    assert_same(run, tmp_path / "whole")
