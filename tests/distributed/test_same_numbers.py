"""One process, two or four, each with the whole model or with its share: the same steps, losses and weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from support.compared_runs import agree, overrides, rows, steps_seen
from support.rank_runs import Phase, run_phases

# name -> overrides of a run of one process, and what makes it one of two
PAIRS = {
    "full": (["batch.accumulate=4"], ["batch.accumulate=2"]),
    "full-1": (["batch.accumulate=2"], ["batch.accumulate=1"]),  # one microbatch a process
    "lora": (["batch.accumulate=4", "adapter=lora", "adapter.r=4"], ["batch.accumulate=2"]),
    "filler": (["batch.accumulate=10"], ["batch.accumulate=5"]),  # 11 chats: the last step has one microbatch
}
# Those that test_resume_pairs.py has not.
WAYS = {"full": ["ddp"], "full-1": ["ddp", "fsdp"], "lora": ["fsdp"], "filler": ["ddp", "fsdp"]}
HYBRID = ("batch.accumulate=1", "parallel=hsdp", "parallel.shard_size=2")  # of four processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path) -> Path:
    place = tmp_path_factory.mktemp("runs")

    def job(name: str, *more: str) -> list[str]:
        return overrides(model_folder, chat_file, place / name, "trainer.save_every=99", *more)

    alone, together = [], []
    for name, (one, two) in PAIRS.items():
        alone.append(job(f"{name}-one", *one))
        together += [job(f"{name}-{way}", *one, *two, f"parallel={way}") for way in WAYS[name]]
    four = job("full-hsdp", *HYBRID)
    run_phases([Phase(1, alone), Phase(2, together), Phase(4, [four])], place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [(name, way) for name, ways in WAYS.items() for way in ways])
def test_two_processes_train_what_one_does(runs: Path, name: str, way: str) -> None:
    agree(runs / f"{name}-one", runs / f"{name}-{way}")
    assert steps_seen(runs / f"{name}-one", 1) == steps_seen(runs / f"{name}-{way}", 2)


@pytest.mark.slow
def test_two_copies_shared_by_two_processes_each_train_what_one_does(runs: Path) -> None:
    agree(runs / "full-one", runs / "full-hsdp")
    assert steps_seen(runs / "full-one", 1) == steps_seen(runs / "full-hsdp", 4)


@pytest.mark.slow
def test_a_step_with_fewer_microbatches_than_processes_was_among_them(runs: Path) -> None:
    """11 chats in steps of 10: in the second one, one process has a chat and the other none."""
    tokens = [row["train/tokens"] for row in rows(runs / "filler-one")]
    assert min(b - a for a, b in pairwise(tokens)) < max(tokens[0], 1) / 3
