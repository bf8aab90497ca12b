"""Runs of sequence classification, from files to a model folder that says what its answers mean."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from glm_train import run
from support.fitted import (
    KEEPS_ALL,
    configured,
    result,
    same,
    saved_config,
    scalars,
    scores_as_in_transformers,
    state,
)
from support.fitted_texts import NAMES, TASK, TEXTS, texts
from support.runs import rows


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A run that has learnt its texts by heart."""
    folder = tmp_path_factory.mktemp("learned")
    train = texts(folder / "train.jsonl")
    config = configured(
        TASK,
        model_folder,
        train,
        folder / "run",
        data__validation=train,
        batch__documents=4,
        trainer__max_steps=24,
        trainer__validate_every=4,
        trainer__save_every=4,
        trainer__keep=100,
        trainer__result="best",
        task__metric="val/loss",
    )
    result = run.fit(config, "test")
    assert result.metrics["val/accuracy"] == 1
    return folder / "run"


def test_labels_and_scores_are_left_behind(learned: Path) -> None:
    config = saved_config(learned)
    assert config["id2label"] == {"0": "answer", "1": "mood", "2": "weather"}
    assert config["label2id"] == {"answer": 0, "mood": 1, "weather": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["architectures"] == ["GlmForSequenceClassification"]
    assert result(learned)["score.weight"].shape == (3, 32)
    measured = [row for row in rows(learned / "metrics.csv") if row["val/loss"]]
    assert [int(row["step"]) for row in measured] == [4, 8, 12, 16, 20, 24]
    assert all(0 <= float(row[f"val/{name}"]) <= 1 for row in measured for name in ("accuracy", "f1"))


def test_transformers_loads_the_result_and_gives_the_same_scores(learned: Path) -> None:
    theirs, scores = scores_as_in_transformers(learned, [text for text, _ in TEXTS])
    assert [theirs.config.id2label[int(row.argmax())] for row in scores] == [name for _, name in TEXTS]


def test_the_best_step_is_kept(tmp_path: Path, model_folder: Path, learned: Path) -> None:
    """Validation asks for the opposite of what is learnt, so it is best early on."""
    train = learned.parent / "train.jsonl"
    opposite = texts(tmp_path / "held.jsonl", lambda index, name: NAMES[NAMES.index(name) - 1])
    config = configured(
        TASK,
        model_folder,
        train,
        tmp_path / "run",
        data__validation=opposite,
        trainer__max_steps=10,
        trainer__validate_every=1,
        task__metric="val/loss",
        **KEEPS_ALL,
    )
    said = run.fit(config, "test")
    losses = scalars(tmp_path / "run", "val/loss")
    best = min(losses, key=lambda step: losses[step])
    assert best < 10
    assert f"at step {best}" in str(said.best)
    kept = {f"model.safetensors/{name}": tensor for name, tensor in result(tmp_path / "run").items()}
    best_state, last_state = (state(tmp_path / "run", step) for step in (best, 10))
    assert same(kept, {name: best_state[name] for name in kept})
    assert not same(kept, {name: last_state[name] for name in kept})


def test_patience_ends_the_run_and_keeps_it_ended(
    tmp_path: Path, model_folder: Path, learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = learned.parent / "train.jsonl"

    config = partial(
        configured,
        TASK,
        model_folder,
        train,
        tmp_path / "run",
        data__validation=train,
        optim__lr=1e-12,  # too little to change an accuracy
        trainer__max_steps=12,
        trainer__validate_every=1,
        trainer__patience=3,
        trainer__result="best",
    )
    first = run.fit(config(), "test")
    assert first.steps == 4  # the first is the best, and three are no better
    before, measured = result(tmp_path / "run"), rows(tmp_path / "run" / "metrics.csv")
    capsys.readouterr()
    again = run.fit(config(resume="auto"), "test")
    assert again.steps == 4
    assert again.best == first.best
    assert same(result(tmp_path / "run"), before)
    assert rows(tmp_path / "run" / "metrics.csv") == measured
