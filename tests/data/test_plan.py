"""The plan is pure, complete, full, balanced, the same for any number of processes, and never divides by zero."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.data.plan import (
    ATTENTION_TOKENS,
    EpochPlan,
    Step,
    count_microbatches,
    microbatches_for_rank,
    plan_epoch,
    plan_in_order,
    shuffled_indices,
)
from glm_train.errors import DataError

BUDGET = 64
corpora = st.lists(st.integers(1, BUDGET), min_size=1, max_size=80)


def documents_of(plan: EpochPlan) -> list[int]:
    return [d for step in plan.steps for microbatch in step.microbatches for d in microbatch]


def log_normal(n: int) -> np.ndarray:
    draws = np.random.default_rng(0).lognormal(6.0, 0.9, n)
    return np.clip(draws, 8, 4096).astype(np.int64)


@given(corpora, st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 9), st.integers(0, 30))
def test_every_document_once_in_full_steps(
    lengths: list[int], seed: int, epoch: int, per_step: int, free: int
) -> None:
    n = np.array(lengths)
    trained = np.maximum(1, n // 2)
    budget = max(lengths) + free
    plan = plan_epoch(n, trained, seed=seed, epoch=epoch, token_budget=budget, microbatches_per_step=per_step)
    assert sorted(documents_of(plan)) == list(range(len(n)))
    assert all(len(step.microbatches) == per_step for step in plan.steps[:-1])
    assert 1 <= len(plan.steps[-1].microbatches) <= per_step
    for step in plan.steps:
        assert step.trained == sum(trained[list(m)].sum() for m in step.microbatches)
        assert all(0 < n[list(m)].sum() <= budget for m in step.microbatches)
        costs = [(n[list(m)] * ATTENTION_TOKENS + n[list(m)] ** 2).sum() for m in step.microbatches]
        assert costs == sorted(costs, reverse=True)
    expected = count_microbatches(n, token_budget=budget)
    assert sum(len(step.microbatches) for step in plan.steps) == expected


@given(corpora, st.integers(1, 9), st.integers(1, 5))
def test_fixed_documents(lengths: list[int], per_step: int, documents: int) -> None:
    n = np.array(lengths)
    plan = plan_epoch(n, n, seed=3, epoch=0, documents=documents, microbatches_per_step=per_step)
    sizes = [len(m) for step in plan.steps for m in step.microbatches]
    assert sorted(documents_of(plan)) == list(range(len(n)))
    assert len(sizes) == count_microbatches(n, documents=documents) == -(-len(n) // documents)
    assert sorted(sizes)[1:] == [documents] * (len(sizes) - 1)


@given(corpora)
def test_best_fit_equals_its_definition(lengths: list[int]) -> None:
    """The packing by bit masks and runs of equal lengths, against best fit one document at a time."""
    n = np.array(lengths)
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i in range(len(free)) if free[i] >= length]
        if fitting:
            best = min(fitting, key=lambda i: free[i])
            free[best] -= length
        else:
            free.append(BUDGET - length)
    plan = plan_epoch(n, n, seed=0, epoch=0, token_budget=BUDGET, microbatches_per_step=1)
    assert sorted(BUDGET - n[list(step.microbatches[0])].sum() for step in plan.steps) == sorted(free)


@given(corpora, st.integers(1, 6), st.integers(1, 4))
def test_ranks_share_each_step(lengths: list[int], accumulate: int, world_size: int) -> None:
    n = np.array(lengths)
    per_step = accumulate * world_size
    for step in plan_epoch(n, n, seed=0, epoch=0, token_budget=BUDGET, microbatches_per_step=per_step).steps:
        shares = [microbatches_for_rank(step, rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        together = [m for m in chain(*shares) if m]
        assert sorted(together) == sorted(step.microbatches)
        assert len(list(chain(*shares))) - len(together) < world_size
        assert [m for moment in zip(*shares, strict=True) for m in moment if m] == list(step.microbatches)


@given(corpora, st.data(), st.integers(1, 9))
def test_every_step_trains_or_the_plan_is_refused(
    lengths: list[int], data: st.DataObject, per_step: int
) -> None:
    n = np.array(lengths)
    trained = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(n), max_size=len(n))))
    steps = -(-count_microbatches(n, documents=1) // per_step)
    if trained.sum() < steps:
        with pytest.raises(DataError, match="too few for"):
            plan_epoch(n, trained, seed=1, epoch=0, documents=1, microbatches_per_step=per_step)
        return
    plan = plan_epoch(n, trained, seed=1, epoch=0, documents=1, microbatches_per_step=per_step)
    assert min(step.trained for step in plan.steps) >= 1
    assert sum(step.trained for step in plan.steps) == trained.sum()
    assert sorted(documents_of(plan)) == list(range(len(n)))


def test_epochs_differ_and_repeat() -> None:
    n = log_normal(500)
    plans = [
        plan_epoch(n, n, seed=seed, epoch=epoch, token_budget=4096, microbatches_per_step=4)
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
    ]
    assert plans[0] == plans[3]
    assert plans[0].steps != plans[1].steps
    assert plans[0].steps != plans[2].steps
    assert len({len(plan) for plan in plans}) == 1


def test_equal_documents_are_mixed_anew() -> None:
    n = np.full(64, 16)
    packs = [
        {frozenset(m) for step in plan.steps for m in step.microbatches}
        for plan in (
            plan_epoch(n, n, seed=0, epoch=epoch, token_budget=64, microbatches_per_step=2)
            for epoch in range(2)
        )
    ]
    assert len(packs[0]) == len(packs[1]) == 16
    assert len(packs[0] & packs[1]) <= 2


def test_shuffle_is_pinned() -> None:
    """These numbers must never change: a saved place in a plan counts on them."""
    assert shuffled_indices(8, seed=7, epoch=2, stream=0).tolist() == [6, 4, 0, 5, 7, 1, 3, 2]


def test_plan_does_not_depend_on_the_process() -> None:
    """The same plan under other hash seeds and in a fresh process."""
    code = (
        "import numpy as np; from glm_train.data.plan import plan_epoch; n = np.arange(1, 60) % 17 + 1;"
        "print(plan_epoch(n, n, seed=5, epoch=1, token_budget=32, microbatches_per_step=3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1")
    }
    n = np.arange(1, 60) % 17 + 1
    assert outputs == {f"{plan_epoch(n, n, seed=5, epoch=1, token_budget=32, microbatches_per_step=3)}\n"}


def test_no_torch() -> None:
    code = "import sys, glm_train.data.plan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_worked_example() -> None:
    n = np.array([5, 3, 2, 2, 1, 1])
    plan = plan_epoch(n, n, seed=0, epoch=0, token_budget=7, microbatches_per_step=2)
    assert [sorted(n[list(m)].tolist(), reverse=True) for m in plan.steps[0].microbatches] == [
        [5, 2],
        [3, 2, 1, 1],
    ]


def test_cost_counts_attention() -> None:
    """One long document costs more than as many tokens in short ones."""
    n = np.array([50, 50, 100])
    plan = plan_epoch(n, n, seed=0, epoch=0, token_budget=100, microbatches_per_step=2)
    assert plan.steps[0].microbatches[0] == (2,)


def test_in_order() -> None:
    n = np.array([3, 3, 3, 7, 1, 1])
    plan = plan_in_order(n, n, token_budget=7)
    assert plan.steps == [Step(((0, 1), (2,), (3,), (4, 5)), 18)]
    assert plan_in_order(n, n, documents=4).steps[0].microbatches == ((0, 1, 2, 3), (4, 5))
    assert plan_in_order(n[:0], n[:0], token_budget=7).steps == []


def test_no_documents_no_steps() -> None:
    none = np.zeros(0, int)
    assert plan_epoch(none, none, seed=0, epoch=0, token_budget=7, microbatches_per_step=2).steps == []
    assert count_microbatches(none, token_budget=7) == 0


@pytest.mark.parametrize("plan", [plan_in_order, count_microbatches])
def test_too_long_document_names_the_cure(plan: object) -> None:
    n = np.array([5, 9, 8])
    arguments = (n, n) if plan is plan_in_order else (n,)
    with pytest.raises(DataError) as caught:
        plan(*arguments, token_budget=7)  # type: ignore[operator]
    assert "2 documents are longer than batch.tokens=7; the longest has 9 tokens" in str(caught.value)
    assert "Set batch.tokens=9 or more, or data.max_length=7 or less." in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"token_budget": 7, "documents": 1},
        {"documents": 0},
        {"token_budget": 0},
    ],
)
def test_wrong_calls(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="token_budget"):
        count_microbatches(np.array([1]), **arguments)


def test_empty_document_is_a_wrong_call() -> None:
    with pytest.raises(ValueError, match="lengths at least 1"):
        count_microbatches(np.array([3, 0]), token_budget=7)


def test_fill_and_speed() -> None:
    """100,000 documents: at least 99.9 % full, and fast enough to be made anew each epoch on any machine."""
    n = log_normal(100_000)
    began = time.perf_counter()
    plan = plan_epoch(n, n, seed=0, epoch=0, token_budget=4096, microbatches_per_step=8)
    seconds = time.perf_counter() - began
    microbatches = sum(len(step.microbatches) for step in plan.steps)
    assert n.sum() / (microbatches * 4096) > 0.999
    assert seconds < 3.0, f"{len(n) / seconds:,.0f} documents/s"
