"""A run of 40 steps that is stopped a dozen times, in the middle of steps, ends as one that was never stopped.

Bit for bit: weights, moments, random state, learning rate, scores, the best model and the answers that it logs. An
epoch has six steps of two packed microbatches, and every eighth step is followed by validation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glm_train import run
from glm_train.config.schema import RunConfig
from support.fitted import configured, cut_back, result, same, state
from support.fitted_texts import texts
from support.fitted_words import conll
from support.model_folder import make_model_folder, write_chats
from support.runs import rows
from support.stopped_runs import run_in_pieces

STEPS, EPOCH = 40, 6
#: the first step; before, at and after an epoch's end; where validation is due, and before and after it; both; the last
#: but one
STOPS = (1, 5, 6, 7, 8, 15, 16, 17, 24, 29, 36, 39)
CRASHES = (10, 33)
LORA = {"adapter": "lora", "adapter__r": 4, "adapter__dropout": 0.3}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("chat", {"samples__every": 7, "samples__count": 1, "samples__max_new_tokens": 3}),
    "lora": ("chat", {**LORA, "adapter__lr_ratio": 4, "trainer__result": "best"}),
    "words": ("token_classification", {"data__max_length": 12, "task__class_weights": "balanced"}),
    "texts": (
        "sequence_classification",
        {**LORA, "trainer__precision": "bf16-mixed", "trainer__async_save": True},
    ),
}
FILES = {
    "chat": "chats.jsonl",
    "token_classification": "words.conll",
    "sequence_classification": "texts.jsonl",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    make_model_folder(folder / "model", tiny_tokenizer_folder, attention_dropout=0.2, classifier_dropout=0.2)
    write_chats(folder / FILES["chat"], repeats=2)
    conll(folder / FILES["token_classification"])
    texts(folder / FILES["sequence_classification"])
    return folder


def configure(
    place: Path, name: str, output: Path | None, resume: str = "never", **settings: Any
) -> RunConfig:
    task, more = SETTINGS[name]
    values = {
        "data__validation": place / FILES[task],
        "batch__documents": None,
        "batch__tokens": 64,
        "batch__accumulate": 2,
        "schedule": "cosine",
        "schedule__warmup_steps": 3,
        "trainer__max_steps": STEPS,
        "trainer__validate_every": 8,
        "trainer__log_every": 1,
        "trainer__save_every": 1000,
        "trainer__keep": 99,
        "resume": resume,
        **more,
        **settings,
    }
    return configured(task, place / "model", place / FILES[task], output, **values)


@pytest.fixture(scope="module")
def whole(place: Path) -> Callable[[str], Path]:
    """The run of a setting that is never stopped, with the state of every step; made when it is first asked for."""
    made = {}

    def run_once(name: str) -> Path:
        if name not in made:
            made[name] = place / name
            assert run.fit(configure(place, name, made[name], trainer__save_every=1), "test").steps == STEPS
        return made[name]

    return run_once


def assert_ends_alike(part: Path, whole: Path) -> None:
    """Everything that the last step left."""
    assert same(state(part, STEPS), state(whole, STEPS))
    metas = [
        json.loads((folder / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())
        for folder in (part, whole)
    ]
    assert metas[0] == metas[1]
    assert same(result(part), result(whole))
    assert rows(part / "metrics.csv") == rows(whole / "metrics.csv")
    samples = [folder / "samples.jsonl" for folder in (part, whole)]
    assert samples[0].exists() == samples[1].exists()
    if samples[0].exists():
        assert samples[0].read_bytes() == samples[1].read_bytes()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_stopped_a_dozen_times_ends_as_if_never_stopped(
    place: Path, whole: Callable[[str], Path], name: str, workers: int
) -> None:
    part = place / f"{name}-{workers}"

    def config(output: Path, resume: str) -> RunConfig:
        return configure(place, name, output, resume, data__workers=workers)

    assert run_in_pieces(config, whole(name), part, STOPS, CRASHES) == STEPS
    assert_ends_alike(part, whole(name))


@pytest.mark.parametrize("name", ["words", "texts"])
def test_classifiers_go_on_exactly(place: Path, whole: Callable[[str], Path], name: str) -> None:
    part = place / f"{name}-part"

    def config(output: Path, resume: str) -> RunConfig:
        return configure(place, name, output, resume)

    assert run_in_pieces(config, whole(name), part, [7, 16, 30], [19]) == STEPS
    assert_ends_alike(part, whole(name))


@pytest.mark.parametrize(("name", "step"), [("full", 2), ("full", 24), ("lora", 16), ("lora", 39)])
def test_a_run_that_is_resumed_from_a_named_state_ends_as_if_never_stopped(
    place: Path, whole: Callable[[str], Path], name: str, step: int
) -> None:
    part = cut_back(whole(name), place / f"{name}-from-{step}", step)
    resume = str(part / "checkpoints" / f"step-{step:08d}")
    assert run.fit(configure(place, name, None, resume), "test").steps == STEPS
    assert_ends_alike(part, whole(name))


def test_the_runs_are_what_they_are_said_to_be(whole: Callable[[str], Path]) -> None:
    """Several epochs of six steps, a rate that changes with every step, random numbers drawn in every step."""
    seen = rows(whole("full") / "metrics.csv")
    assert [float(row["epoch"]) for row in seen] == pytest.approx([(i + 1) / EPOCH for i in range(STEPS)])
    assert len({row["train/lr"] for row in seen[3:]}) == STEPS - 3
    assert [int(row["step"]) for row in seen if row["val/loss"]] == [8, 16, 24, 32, 40]
    for name in SETTINGS:
        random = {
            state(whole(name), step)["random.safetensors/cpu"].tobytes() for step in range(1, STEPS + 1)
        }
        assert len(random) == STEPS
