"""Runs of sequence classification, from files to a model folder that says what its answers mean."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glm_train import GlmForSequenceClassification, run
from glm_train.errors import ConfigError, DataError
from support.classifier_folder import write_lines
from support.fitted import configured, cut_back, logits_of, result, same, saved_config, scalars, state
from support.fitted_texts import NAMES, TASK, TEXTS, texts
from support.runs import rows


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A run that has learnt its texts by heart and kept the state of every other step."""
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
    import transformers

    ours = GlmForSequenceClassification.from_pretrained(learned / "model")
    theirs = transformers.GlmForSequenceClassification.from_pretrained(learned / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(learned / "model")
    documents = [tokenizer(text)["input_ids"] for text, _ in TEXTS]
    expected = logits_of(theirs, documents)
    for mine, reference in zip(logits_of(ours, documents), expected, strict=True):
        assert torch.allclose(mine, reference, atol=1e-5)
    assert [theirs.config.id2label[int(scores.argmax())] for scores in expected] == [n for _, n in TEXTS]


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
        trainer__save_every=1,
        trainer__keep=100,
        trainer__result="best",
        task__metric="val/loss",
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

    def config(resume: str) -> Any:
        return configured(
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
            resume=resume,
        )

    first = run.fit(config("never"), "test")
    assert first.steps == 4  # the first is the best, and three are no better
    before, measured = result(tmp_path / "run"), rows(tmp_path / "run" / "metrics.csv")
    capsys.readouterr()
    again = run.fit(config("auto"), "test")
    assert again.steps == 4
    assert again.best == first.best
    assert same(result(tmp_path / "run"), before)
    assert rows(tmp_path / "run" / "metrics.csv") == measured


@pytest.fixture(scope="module")
def stopped_anywhere(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path):
    """A run with dropout, accumulation, a best model and weighted classes that kept the state of every step."""
    from support.model_folder import make_model_folder

    folder = tmp_path_factory.mktemp("exact")
    model = make_model_folder(folder / "model", tiny_tokenizer_folder, attention_dropout=0.3)
    train = texts(folder / "train.jsonl")

    def config(output: Path, resume: str = "never"):
        return configured(
            TASK,
            model,
            train,
            output,
            data__validation=train,
            batch__documents=1,
            batch__accumulate=3,
            task__class_weights="balanced",
            trainer__max_steps=7,
            trainer__validate_every=3,
            trainer__save_every=1,
            trainer__keep=100,
            trainer__result="best",
            resume=resume,
        )

    run.fit(config(folder / "whole"), "test")
    return folder, config


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_ends_as_if_never_stopped(stopped_anywhere, step: int) -> None:
    folder, config = stopped_anywhere
    whole, part = folder / "whole", cut_back(folder / "whole", folder / f"part{step}", step)
    assert run.fit(config(part, "auto"), "test").steps == 7
    assert same(result(part), result(whole))
    for later in range(step + 1, 8):
        assert same(state(part, later), state(whole, later))
    assert rows(part / "metrics.csv") == rows(whole / "metrics.csv")


def test_a_second_run_keeps_labels_and_head(tmp_path: Path, learned: Path) -> None:
    few = write_lines(tmp_path / "few.jsonl", [{"text": t, "label": n} for t, n in TEXTS[:4]])
    config = configured(TASK, learned / "model", few, tmp_path / "run", optim__lr=1e-12, trainer__max_steps=1)
    run.fit(config, "test")
    assert saved_config(tmp_path / "run")["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    head, before = (result(folder)["score.weight"] for folder in (tmp_path / "run", learned))
    assert np.allclose(head, before, atol=1e-9)


def test_a_second_run_refuses_labels_that_the_model_has_not(tmp_path: Path, learned: Path) -> None:
    other = write_lines(
        tmp_path / "other.jsonl", [{"text": "No.", "label": "answer"}, {"text": "Sunny", "label": "wether"}]
    )
    with pytest.raises(DataError, match=r"other\.jsonl:2: .*'wether'.*weather"):
        run.fit(configured(TASK, learned / "model", other, tmp_path / "run"), "test")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("order", [["weather", "mood", "answer"], ["up", "down"]])
def test_other_labels_than_the_models_own_are_not_put_on_its_head(
    tmp_path: Path, learned: Path, order: list[str]
) -> None:
    data = texts(tmp_path / "train.jsonl")
    with pytest.raises(ConfigError, match=r"task\.labels") as error:
        run.fit(configured(TASK, learned / "model", data, tmp_path / "run", task__labels=order), "test")
    assert "answer, mood, weather" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_leaves_its_course_keeps_the_best_of_the_new_one(stopped_anywhere) -> None:
    """Gone back to an early state, with a learning rate that leaves the model as it is: the old best must not stay."""
    folder, config = stopped_anywhere
    part = folder / "other"
    shutil.copytree(folder / "whole", part, ignore=shutil.ignore_patterns("model", "report.html"))
    for kept in (part / "checkpoints").iterdir():
        if int(kept.name.removeprefix("step-")) > 1:
            shutil.rmtree(kept)
    old = {path.name for path in (part / "best").glob("step-*")}
    assert old
    asked = config(part, "auto")
    still = dataclasses.replace(asked, optim=dataclasses.replace(asked.optim, lr=1e-12))
    result_of_run = run.fit(still, "test")
    assert "at step 3" in str(result_of_run.best)
    assert {path.name for path in (part / "best").glob("step-*")} == {"step-00000003"}
    before, after = state(part, 1), result(part)
    assert all(np.allclose(before[f"model.safetensors/{name}"], after[name], atol=1e-9) for name in after)


def test_the_best_may_be_asked_for_when_the_run_goes_on(stopped_anywhere) -> None:
    folder, config = stopped_anywhere
    part = cut_back(folder / "whole", folder / "without", 4)
    shutil.rmtree(part / "best")
    assert run.fit(config(part, "auto"), "test").best is not None
    assert (part / "model" / "config.json").exists()
