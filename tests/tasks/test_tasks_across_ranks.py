"""Every task trains the same by one process, two (ddp, fsdp) and four (hsdp): losses, scores, weights, samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glm_train.data.plan import microbatches_for_rank
from support.compared_runs import agree, rows
from support.plain_descent import KINDS, PER_EPOCH, STEPS, data_of, documents_of
from support.task_ranks import Work, work_alone, work_together
from support.task_runs import CASES, HALF, WAYS, files, job

LOSS = WEIGHTS = 1e-5
PAIRS = [(name, way) for name, case in CASES.items() for way in case.ways]
OF_KIND = {"chat": WAYS, "tokens": WAYS, "single_label": ("ddp", "fsdp")}
DESCENTS = [(kind, way) for kind in KINDS for way in OF_KIND.get(kind, ("ddp",))]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """All runs and descents: `NAME-WAY`, where the way is `one` for one process."""
    place = tmp_path_factory.mktemp("results")
    files(place, tiny_tokenizer_folder)
    half = ("trainer.precision=bf16-mixed", "trainer.max_steps=6", "trainer.validate_every=3")

    def work(processes: int) -> Work:
        made = Work()
        for name, way in PAIRS if processes > 1 else [(name, "one") for name in CASES]:
            if WAYS.get(way, 1) == processes:
                made.fits.append(job(place, name, way, CASES[name]))
        for name, way in HALF.items():
            if processes <= 2:
                chosen = way if processes > 1 else "one"
                made.fits.append(job(place, f"{name}-bf16", chosen, CASES[name], *half))
        for kind, way in DESCENTS if processes > 1 else [(kind, "one") for kind in KINDS]:
            if WAYS.get(way, 1) == processes:
                made.descents.append((kind, way, place / f"{kind}-{way}.pt"))
        return made

    work_alone(work(1))
    work_together(work(2), 2)
    work_together(work(4), 4)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_runs_are_those_of_one_process(results: Path, name: str, way: str) -> None:
    agree(results / f"{name}-one", results / f"{name}-{way}")


@pytest.mark.slow
@pytest.mark.parametrize("way", CASES["best"].ways)
def test_the_same_step_is_best(results: Path, way: str) -> None:
    alone, together = (
        sorted(state.name for state in (results / f"best-{w}" / "best").iterdir()) for w in ("one", way)
    )
    assert alone == together
    assert max(alone) < f"step-{STEPS:08d}", "the last step is not the best"


@pytest.mark.slow
@pytest.mark.parametrize("way", CASES["chat"].ways)
def test_samples_are_those_of_one_process(results: Path, way: str) -> None:
    alone, together = ((results / f"chat-{w}" / "samples.jsonl").read_text() for w in ("one", way))
    assert [json.loads(line)["step"] for line in alone.splitlines()] == [10, 10, 10, 20, 20, 20]
    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), HALF.items())
def test_two_processes_in_bf16_are_close_to_one(results: Path, name: str, way: str) -> None:
    alone, together = (rows(results / f"{name}-bf16-{w}") for w in ("one", way))
    assert len(alone) == len(together) == 6
    for one, other in zip(alone, together, strict=True):
        for key in one.keys() & {"train/loss", "val/loss"}:
            assert other[key] == pytest.approx(one[key], rel=2e-2), (one["step"], key)
    exact = rows(results / f"{name}-one")
    assert together[-1]["train/loss"] != pytest.approx(exact[5]["train/loss"], rel=1e-6), "it is not fp32"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), DESCENTS)
def test_plain_descent_is_that_of_one_process(results: Path, kind: str, way: str) -> None:
    """Without AdamW, which divides rounding by rounding, all agrees to rounding: loss, norm, weights."""
    alone, together = (torch.load(results / f"{kind}-{w}.pt", weights_only=True) for w in ("one", way))
    assert len(alone["steps"]) == len(together["steps"]) == STEPS
    for (loss, norm, tokens), (other_loss, other_norm, other_tokens) in zip(
        alone["steps"], together["steps"], strict=True
    ):
        assert other_loss == pytest.approx(loss, rel=LOSS)
        assert other_norm == pytest.approx(norm, rel=1e-4)
        assert other_tokens == tokens
    assert alone["weights"].keys() == together["weights"].keys()
    for name, weight in alone["weights"].items():
        assert (weight - together["weights"][name]).abs().max() <= WEIGHTS, name
    norms = [norm for _, norm, _ in alone["steps"]]
    assert alone["steps"][-1][0] < alone["steps"][0][0], "it learns"
    assert kind in ("chat", "multi_label") or min(norms) < 1 < max(norms), "some steps are clipped"


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ranks_of_a_descent_are_very_unequal(kind: str, processes: int) -> None:
    """Of the same step one rank has hundreds of targets and another one or none; and one rank may have no document."""
    trained = documents_of(kind).trained
    shares = []
    for epoch in range(STEPS // PER_EPOCH):
        for step in data_of(kind).plan(epoch).steps:
            ranks = [microbatches_for_rank(step, rank, processes) for rank in range(processes)]
            shares.append([[int(trained[list(one)].sum()) for one in rank] for rank in ranks])
            assert sum(map(sum, shares[-1])) == step.trained
    totals = [sorted(map(sum, ranks)) for ranks in shares]
    many = 200 if kind in ("chat", "tokens") else 40
    assert any(total[-1] >= many and total[0] <= 1 for total in totals)
    assert any(total[0] == 0 for total in totals)
