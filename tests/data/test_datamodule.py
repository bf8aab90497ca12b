"""Loaders under a real Lightning trainer: every document once, the same for any number of workers and processes,
and a restart at any step that continues with exactly what was not trained on."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from glm_train import dist
from glm_train.data.collate import PackedBatch
from glm_train.data.datamodule import GlmDataModule
from glm_train.data.plan import Step, count_microbatches
from glm_train.data.report import PrepareReport
from glm_train.data.sampler import PackedDataset, RankStep, StepSampler, rank_share
from glm_train.data.store import ExampleStore, ExampleWriter
from glm_train.errors import ConfigError

DOCUMENTS = 46
BUDGET = 24
EPOCHS = 3


def make_store(folder: Path, lengths: list[int]) -> ExampleStore:
    folder.mkdir()
    with ExampleWriter(folder) as writer:
        for index, length in enumerate(lengths):
            ids = np.full(length, index, np.int32)
            writer.append(ids, ids, trained=length - 1, file=0, line=index + 1)
        writer.finish(PrepareReport(), {})
    return ExampleStore(folder, ["made.jsonl"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    lengths = np.random.default_rng(0).integers(2, 20, DOCUMENTS).tolist()
    return make_store(tmp_path_factory.mktemp("store") / "train", lengths)


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    return make_store(tmp_path_factory.mktemp("store") / "validation", [5, 9, 20, 3, 3, 3, 18])


def steps_per_epoch(store: ExampleStore, per_step: int) -> int:
    return -(-count_microbatches(store.lengths, token_budget=BUDGET) // per_step)


def module(store: ExampleStore, validation: ExampleStore | None = None, **changed: Any) -> GlmDataModule:
    settings: dict[str, Any] = {"seed": 3, "microbatches_per_step": 2, "token_budget": BUDGET}
    settings = {"validation_tokens": BUDGET, **settings, **changed}
    per_epoch = steps_per_epoch(store, settings["microbatches_per_step"])
    return GlmDataModule(
        store, validation, **{"steps_per_epoch": per_epoch, "total_steps": EPOCHS * per_epoch, **settings}
    )


class Recorder(pl.LightningModule):
    """Notes the documents of each step's microbatches, as a task of ours receives them."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[list[list[int]]] = []
        self.validated: list[list[int]] = []

    def training_step(self, microbatches: list[PackedBatch], _index: int) -> None:
        assert all(isinstance(batch, PackedBatch) for batch in microbatches)
        self.seen.append([batch.documents for batch in microbatches])

    def validation_step(self, microbatches: list[PackedBatch], _index: int) -> None:
        self.validated += [batch.documents for batch in microbatches]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(data: GlmDataModule, **limits: Any) -> Recorder:
    model = Recorder()
    pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 1, "limit_val_batches": 0, **limits},
    ).fit(model, datamodule=data)
    return model


def planned(data: GlmDataModule, epochs: int = EPOCHS) -> list[list[list[int]]]:
    return [[list(m) for m in step.microbatches] for e in range(epochs) for step in data.plan(e).steps]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("per_step", [1, 2, 5])
def test_a_run_is_its_plans_end_to_end(store: ExampleStore, workers: int, per_step: int) -> None:
    seen = fit(module(store, workers=workers, microbatches_per_step=per_step)).seen
    assert seen == planned(module(store, microbatches_per_step=per_step))
    per_epoch = steps_per_epoch(store, per_step)
    for epoch in range(EPOCHS):
        documents = chain(*chain(*seen[epoch * per_epoch : (epoch + 1) * per_epoch]))
        assert sorted(documents) == list(range(DOCUMENTS))
    if per_step == 5:
        assert len(seen[per_epoch - 1]) < per_step, "the last step of an epoch is not full: the harder case"


def test_restart_at_every_step(store: ExampleStore) -> None:
    """Mid-epoch, before and after the short last step, at the very beginning and end: the rest, once, in order."""
    whole = planned(module(store))
    for done in range(len(whole) + 1):
        loader = module(store, start_step=done).train_dataloader()
        assert [[batch.documents for batch in step] for step in loader] == whole[done:]
        assert len(loader) == len(whole) - done


@pytest.mark.parametrize("workers", [0, 2])
def test_restart_under_the_trainer(store: ExampleStore, workers: int) -> None:
    per_epoch = steps_per_epoch(store, 2)
    whole = planned(module(store))
    for done in (1, per_epoch - 1, per_epoch, per_epoch + 1, len(whole) - 1):
        first = fit(module(store, total_steps=done, workers=workers))
        second = fit(module(store, start_step=done, workers=workers))
        assert first.seen + second.seen == whole, f"stopped after step {done}"


def test_a_run_that_is_done_has_nothing_left(store: ExampleStore) -> None:
    assert len(module(store, start_step=1000).train_dataloader()) == 0
    assert list(module(store, start_step=1000).train_dataloader()) == []


Contents = list[list[tuple[list[int], list[int], list[int], int]]]


def contents(loader: Any) -> Contents:
    return [
        [(b.input_ids.tolist(), b.target_positions.tolist(), b.documents, b.step_tokens) for b in step]
        for step in loader
    ]


@pytest.mark.parametrize(("start_method", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_change_nothing(store: ExampleStore, start_method: str, workers: int) -> None:
    expected = contents(module(store).train_dataloader())
    loader = module(store, workers=workers).train_dataloader()
    loader.multiprocessing_context = start_method
    assert contents(loader) == expected
    assert contents(loader) == expected, "a second pass with the same workers"


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_draws_nothing_from_the_global_generator(store: ExampleStore, workers: int) -> None:
    """Else a resumed run, which starts its loaders once more, would draw other dropout masks."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(module(store, workers=workers).train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_step_tokens_are_exact(store: ExampleStore) -> None:
    for step in module(store).train_dataloader():
        assert {batch.step_tokens for batch in step} == {sum(len(batch.targets) for batch in step)}


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("first_step", [0, 3])
def test_ranks_share_one_plan(store: ExampleStore, world_size: int, first_step: int) -> None:
    """Any number of processes trains the same steps from any step on; all have as many microbatches; fillers
    train nothing. So a run saved on one number of processes goes on with another."""
    data = module(store, microbatches_per_step=4)
    per_epoch = steps_per_epoch(store, 4)
    packed = PackedDataset(store)
    ranks = [
        StepSampler(
            data.plan,
            store.lengths,
            steps_per_epoch=per_epoch,
            first_step=first_step,
            last_step=2 * per_epoch,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    steps = [step for epoch in range(2) for step in data.plan(epoch).steps][first_step:]
    assert {len(sampler) for sampler in ranks} == {len(steps)}
    fillers = 0
    for step, *shares in zip(steps, *ranks, strict=True):
        assert len({len(share.microbatches) for share in shares}) == 1
        together = [batch for share in shares for batch in packed[share]]
        trained = [tuple(batch.documents) for batch in together if batch.documents]
        assert sorted(trained) == sorted(step.microbatches)
        assert sum(len(batch.targets) for batch in together) == step.trained
        assert {batch.step_tokens for batch in together} == {step.trained}
        for filler in (batch for batch in together if not batch.documents):
            fillers += 1
            assert len(filler.targets) == len(filler.target_positions) == 0
            assert len(filler.input_ids) == min(store.lengths[list(m)].min() for m in step.microbatches)
    assert (fillers > 0) == (sum(-len(step.microbatches) % world_size for step in steps) > 0)


def test_fillers_complete_the_last_step() -> None:
    step = Step(((0, 2), (1,), (3,)), 9)
    lengths = np.array([5, 2, 2, 9])
    shares = [rank_share(step, lengths, rank, world_size=2) for rank in range(2)]
    assert shares == [RankStep(((0, 2), (3,)), 9), RankStep(((1,), ()), 9, filler=1)]


def test_untrained_step_does_not_divide_by_zero() -> None:
    assert rank_share(Step(((0,),), 0), np.array([3]), rank=0, world_size=1).trained == 1


def test_validation_in_order(store: ExampleStore, validation: ExampleStore) -> None:
    found = list(module(store, validation).val_dataloader())
    assert [[batch.documents for batch in item] for item in found] == [[[0, 1]], [[2, 3]], [[4, 5, 6]]]
    assert {item[0].step_tokens for item in found} == {int(validation.trained.sum())}
    model = fit(module(store, validation), limit_val_batches=1.0)
    assert model.validated == [[0, 1], [2, 3], [4, 5, 6]]
    assert module(store).val_dataloader() == []


def test_validation_over_ranks(
    store: ExampleStore, validation: ExampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many items on every rank, or a collective would wait for ever; every target counted once."""
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    found = []
    for rank in (0, 1):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        found.append([batch for item in module(store, validation).val_dataloader() for batch in item])
    assert [[batch.documents for batch in share] for share in found] == [[[0, 1], [4, 5, 6]], [[2, 3], []]]
    assert sum(len(batch.targets) for share in found for batch in share) == validation.trained.sum()


def test_ranks_must_divide_the_step(store: ExampleStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="3 microbatches a step cannot be shared evenly by 2 processes"):
        module(store, microbatches_per_step=3).train_dataloader()
