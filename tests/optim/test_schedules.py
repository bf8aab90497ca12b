"""Schedules at their corners, and what holds for every step of every schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.errors import ConfigError
from glm_train.optim.schedules import SCHEDULES, schedule_factor

TOTAL, WARMUP, FLOOR = 101, 11, 0.1


def _factor(name: str, step: int) -> float:
    return schedule_factor(
        name, step, total_steps=TOTAL, warmup_steps=WARMUP, min_lr_ratio=FLOOR, decay_ratio=0.2
    )


@pytest.mark.parametrize("name", SCHEDULES)
def test_warm_up_begins_above_zero_and_ends_at_the_peak(name: str) -> None:
    assert _factor(name, 0) == 1 / WARMUP
    assert _factor(name, 4) == 5 / WARMUP
    assert _factor(name, WARMUP - 1) == 1.0


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("cosine", 100, FLOOR),
        ("linear", 100, FLOOR),
        ("constant", 100, 1.0),
        ("wsd", 100, FLOOR),
        ("cosine", 55, 0.55),  # halfway between the peak at 10 and the last step
        ("linear", 55, 0.55),
        ("cosine", 40, FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi / 3)) / 2),
        ("linear", 40, FLOOR + (1 - FLOOR) * 2 / 3),
        ("constant", 55, 1.0),
        ("wsd", 80, 1.0),  # 20 steps of decay are 81 to 100
        ("wsd", 81, FLOOR + (1 - FLOOR) * 19 / 20),
        ("wsd", 90, FLOOR + (1 - FLOOR) / 2),
    ],
)
def test_values(name: str, step: int, expected: float) -> None:
    assert _factor(name, step) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warm_up_the_first_step_has_the_peak(name: str) -> None:
    assert schedule_factor(name, 0, total_steps=50, decay_ratio=0.1) == 1.0


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_last_step_has_the_floor_exactly(name: str) -> None:
    for floor in (0.0, 0.1, 0.3, 1.0):
        factor = schedule_factor(name, 29, total_steps=30, min_lr_ratio=floor, decay_ratio=0.5)
        assert factor == floor


@given(
    name=st.sampled_from(SCHEDULES),
    total=st.integers(1, 300),
    warmup_share=st.floats(0, 0.5),
    decay_ratio=st.floats(0, 0.49),
    floor=st.floats(0, 1),
)
def test_every_factor_lies_between_floor_and_peak_and_never_rises_after_the_peak(
    name: str, total: int, warmup_share: float, decay_ratio: float, floor: float
) -> None:
    warmup = int(warmup_share * total)
    factors = [
        schedule_factor(
            name,
            step,
            total_steps=total,
            warmup_steps=warmup,
            min_lr_ratio=floor,
            decay_ratio=decay_ratio,
        )
        for step in range(total + 2)
    ]
    after = factors[max(warmup - 1, 0) :]
    assert factors[:warmup] == sorted(factors[:warmup])
    assert after[0] == 1.0
    assert all(a >= b - 1e-12 for a, b in pairwise(after))
    assert all(floor - 1e-12 <= factor <= 1.0 for factor in after)
    assert factors[total] == factors[total + 1] == factors[total - 1]


def test_a_run_of_one_step_trains_at_the_peak() -> None:
    assert [schedule_factor(name, 0, total_steps=1) for name in SCHEDULES] == [1.0] * 4


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cosin", {}, "Did you mean 'cosine'"),
        ("cosine", {"warmup_steps": 31}, r"warm-up \(31 steps\) does not fit into a run of 30"),
        ("wsd", {"warmup_steps": 20, "decay_ratio": 0.5}, r"decay \(15 steps\) do not fit into a run of 30"),
    ],
)
def test_faults_are_config_errors(name: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule_factor(name, 0, total_steps=30, **settings)
