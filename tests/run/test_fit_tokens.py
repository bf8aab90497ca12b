"""Runs of token classification, from files to a model folder that says what its answers mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train import run
from support.fitted import configured, result, same, saved_config, scores_as_in_transformers
from support.fitted_words import NAMES, SENTENCES, TASK, conll, words
from support.runs import rows


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A run that has learnt its sentences by heart, seeing both sides of a word."""
    folder = tmp_path_factory.mktemp("learned")
    train = conll(folder / "train.conll")
    config = configured(
        TASK,
        model_folder,
        train,
        folder / "run",
        data__validation=train,
        model__bidirectional=True,
        batch__documents=6,
        trainer__max_steps=40,
        trainer__validate_every=10,
        trainer__result="best",
    )
    assert run.fit(config, "test").metrics["val/f1"] > 0.9
    return folder / "run"


def test_labels_and_scores_are_left_behind(learned: Path) -> None:
    config = saved_config(learned)
    assert config["id2label"] == {str(index): name for index, name in enumerate(NAMES)}
    assert config["label2id"] == {name: index for index, name in enumerate(NAMES)}
    assert config["architectures"] == ["GlmForTokenClassification"]
    assert config["bidirectional"] is True
    measured = [row for row in rows(learned / "metrics.csv") if row["val/loss"]]
    assert [int(row["step"]) for row in measured] == [10, 20, 30, 40]
    names = ("f1", "precision", "recall", "accuracy", "f1_argmax", "f1/LOC", "f1/PER")
    assert all(0 <= float(row[f"val/{name}"]) <= 1 for row in measured for name in names)


@pytest.mark.parametrize("both", [False, True])
def test_transformers_loads_the_result_and_gives_the_same_scores(
    tmp_path: Path, model_folder: Path, learned: Path, both: bool
) -> None:
    folder = learned
    if not both:
        folder = tmp_path / "run"
        run.fit(configured(TASK, model_folder, learned.parent / "train.conll", folder), "test")
        assert "bidirectional" not in saved_config(folder)
        assert not same(result(folder), result(learned))
    texts = [" ".join(word for word, _ in words(one)) for one in SENTENCES]
    scores_as_in_transformers(folder, texts, both_sides=both)
