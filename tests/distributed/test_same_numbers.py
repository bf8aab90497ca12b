"""One process or two, each with the whole model or with its share: the same steps, losses and weights.

The bound on weights is for AdamW: where a gradient is nothing but rounding (that of a key's bias is 0 in exact
arithmetic), its step is the rounding divided by itself. With eps far above the rounding, and the rate of these runs,
weights agree to WEIGHTS after 20 steps.
"""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from support.rank_runs import run_together

STEPS, LOSS, WEIGHTS = 20, 1e-5, 2e-5
# name -> overrides of a run of one process, and what makes it one of two
PAIRS = {
    "full": (["batch.accumulate=4"], ["batch.accumulate=2"]),
    "full-1": (["batch.accumulate=2"], ["batch.accumulate=1"]),  # one microbatch a process
    "lora": (["batch.accumulate=4", "adapter=lora", "adapter.r=4"], ["batch.accumulate=2"]),
    "filler": (["batch.accumulate=10"], ["batch.accumulate=5"]),  # 11 chats: the last step has one microbatch
}
WAYS = ("ddp", "fsdp")


def overrides(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    settings = {
        "model.path": model,
        "data.train": data,
        "data.validation": data,
        "data.max_length": 96,
        "batch.documents": 1,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": STEPS,
        "trainer.validate_every": 10,
        "trainer.save_every": 10,
        "trainer.keep": 9,
        "trainer.log_every": 1,
        "optim.lr": 0.003,
        "optim.eps": 1e-3,
        "output_dir": output,
    }
    return [*(f"{key}={value}" for key, value in settings.items()), *more]


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    return [
        {key: float(value) for key, value in row.items() if value and key != "train/tokens_per_second"}
        for row in found
    ]


def weights(folder: Path) -> dict[str, np.ndarray]:
    whole = folder / "model" / "model.safetensors"
    return load_file(whole if whole.exists() else folder / "model" / "adapter_model.safetensors")


def agree(one: Path, other: Path) -> None:
    """Losses, scores, counts and weights of two runs."""
    expected, found = rows(one), rows(other)
    assert len(expected) == len(found) == STEPS
    for first, second in zip(expected, found, strict=True):
        assert first.keys() == second.keys()
        for key, value in first.items():
            bound = 1e-4 if key in ("train/grad_norm", "val/perplexity") else LOSS
            assert second[key] == pytest.approx(value, rel=bound, abs=bound), (first["step"], key)
    tensors, others = weights(one), weights(other)
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.shape == others[name].shape
        assert np.abs(tensor - others[name]).max() <= WEIGHTS, name


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
