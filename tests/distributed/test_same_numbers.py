"""One process or two, each with the whole model or with its share: the same steps, losses and weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from support.compared_runs import agree, overrides, rows, weights
from support.rank_runs import run_together

# name -> overrides of a run of one process, and what makes it one of two
PAIRS = {
    "full": (["batch.accumulate=4"], ["batch.accumulate=2"]),
    "full-1": (["batch.accumulate=2"], ["batch.accumulate=1"]),  # one microbatch a process
    "lora": (["batch.accumulate=4", "adapter=lora", "adapter.r=4"], ["batch.accumulate=2"]),
    "filler": (["batch.accumulate=10"], ["batch.accumulate=5"]),  # 11 chats: the last step has one microbatch
}
WAYS = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> Path:
    """Each run of PAIRS by one process and by two, and those that go on from another's state."""
    place = tmp_path_factory.mktemp("runs")

    def job(name: str, *more: str) -> list[str]:
        return overrides(model_folder, chat_file, place / name, *more)

    alone, together = [], []
    for name, (one, two) in PAIRS.items():
        alone.append(job(f"{name}-one", *one))
        together += [job(f"{name}-{way}", *one, *two, f"parallel={way}") for way in WAYS]
    run_together(alone, 1, place)
    stopped = ["batch.accumulate=2", "trainer.max_steps=10"]
    run_together(
        [
            *together,
            job("again", "batch.accumulate=2", "parallel=fsdp"),
            job("resumed", *stopped, "parallel=fsdp"),
            job("resumed", "batch.accumulate=2", "parallel=fsdp", "resume=auto"),
            job("to-one", *stopped, "parallel=fsdp"),
            job("lora-to-one", *stopped, "adapter=lora", "adapter.r=4", "parallel=fsdp"),
        ],
        2,
        place,
    )
    run_together(
        [
            job("to-one", "batch.accumulate=4", "resume=auto"),
            job("lora-to-one", "batch.accumulate=4", "adapter=lora", "adapter.r=4", "resume=auto"),
            job("to-two", "batch.accumulate=4", "trainer.max_steps=10"),
        ],
        1,
        place,
    )
    run_together([job("to-two", "batch.accumulate=2", "parallel=fsdp", "resume=auto")], 2, place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PAIRS)
def test_two_processes_train_what_one_does(runs: Path, name: str, way: str) -> None:
    agree(runs / f"{name}-one", runs / f"{name}-{way}")


@pytest.mark.slow
def test_a_resumed_run_is_the_one_never_stopped_bit_for_bit(runs: Path) -> None:
    assert rows(runs / "resumed") == rows(runs / "full-fsdp") == rows(runs / "again")
    expected, found = weights(runs / "full-fsdp"), weights(runs / "resumed")
    assert all(np.array_equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole", "part"), [("full-one", "to-one"), ("full-one", "to-two"), ("lora-one", "lora-to-one")]
)
def test_a_state_goes_on_with_another_number_of_processes(runs: Path, whole: str, part: str) -> None:
    agree(runs / whole, runs / part)


@pytest.mark.slow
def test_a_step_with_fewer_microbatches_than_processes_was_among_them(runs: Path) -> None:
    """11 chats in steps of 10: in the second one, one process has a chat and the other none."""
    tokens = [row["train/tokens"] for row in rows(runs / "filler-one")]
    assert min(b - a for a, b in pairwise(tokens)) < max(tokens[0], 1) / 3
