"""What may change at a resume, and what may not."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glm_train import GlmConfig
from glm_train.config.compose import compose
from glm_train.errors import ConfigError
from glm_train.run_plan import RunPlan, compares_alike, plan_position, refuse_other_plan
from support.tiny_heads import TINY

PLAN = RunPlan(1, 5, 10, 512, None)
DATA = {"train": "a" * 32, "validation": "b" * 32, "names": ("x", "y")}


def position(*settings: str, **changes: Any) -> dict[str, Any]:
    """That of a run of `tiny_sequence`. Changes: examples by their fingerprint, names of the labels."""
    data = DATA | changes
    prepared: Any = SimpleNamespace(
        train=SimpleNamespace(fingerprint=data["train"]),
        validation=data["validation"] and SimpleNamespace(fingerprint=data["validation"]),
        labels=SimpleNamespace(names=data["names"]),
        problem="single_label",
    )
    tokenizer: Any = SimpleNamespace(fingerprint="c" * 32)
    config = compose("tiny_sequence", settings)
    return plan_position(config, PLAN, prepared, GlmConfig(**TINY), tokenizer)


def resume(saved: dict[str, Any], now: dict[str, Any]) -> None:
    refuse_other_plan(saved, 3, now, PLAN, Path("run/checkpoints/step-00000003"))


LAST = "trainer.result=last"
BALANCED = "task.class_weights=balanced"


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([], [BALANCED], "task.class_weights was None and is 'balanced'"),
        ([BALANCED], [], "task.class_weights was 'balanced' and is None"),
        ([], ["task.metric=val/f1"], "task.metric was 'val/accuracy' and is 'val/f1'"),
        (
            [LAST, "trainer.patience=2"],
            ["task.metric=val/loss"],
            "task.metric was 'val/accuracy' and is 'val/loss'",
        ),
        ([], ["seed=1"], "seed was 0 and is 1"),
        ([], ["adapter=lora"], "adapter was {'name': 'none'}"),
        (["adapter=lora"], ["adapter=lora", "adapter.lr_ratio=4"], "'lr_ratio': 4.0"),
    ],
)
def test_other_settings_are_refused(before: list[str], now: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^run/checkpoints/step-00000003: cannot.*{re.escape(said)}"):
        resume(position(*before), position(*now))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "d" * 32}, "a file of data.train is another, or a setting of data or task"),
        ({"validation": "d" * 32}, r"data\.validation \(its examples\) was 'bbbb"),
        ({"names": ("y", "x")}, "labels was "),
    ],
)
def test_other_examples_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        resume(position(), position(**changes))


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([], ["optim.lr=5e-4", "optim.weight_decay=0.1", "optim.betas=[0.8,0.9]", "optim.clip_norm=null"]),
        ([], ["schedule=linear", "trainer.max_epochs=9", "trainer.save_every=1", "trainer.keep=5"]),
        ([], ["trainer.precision=bf16-mixed", "parallel.compile=true", "logger=tensorboard", "run_name=b"]),
        ([], ["data.cache_dir=elsewhere", "data.workers=0", "data.streaming=true"]),
        ([LAST], []),  # from now on the best is kept
        ([], [LAST]),
        ([LAST], [LAST, "task.metric=val/f1"]),  # nothing is compared
        (["task.metric=val/accuracy"], []),  # it is the default
    ],
)
def test_these_may_change(before: list[str], now: list[str]) -> None:
    resume(position(*before), position(*now))


def test_validation_may_begin_or_be_of_other_data_where_nothing_depends_on_it() -> None:
    resume(position(LAST), position(LAST, validation="d" * 32))
    resume(position(validation=None), position())


def test_the_position_is_plain_json() -> None:
    """It is saved with each state and compared with what comes back."""
    import json

    found = position("adapter=lora", "adapter.targets=[q_proj]", BALANCED)
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("before", "now", "alike"),
    [
        ([], [], True),
        ([LAST], [LAST], True),
        ([LAST], [], False),  # nothing was compared before
        ([], [LAST], False),
    ],
)
def test_a_best_validation_counts_only_where_it_was_compared_alike(
    before: list[str], now: list[str], alike: bool
) -> None:
    assert compares_alike(position(*before), position(*now)) == alike
