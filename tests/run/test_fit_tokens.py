"""Runs of token classification, from files to a model folder that says what its answers mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glm_train import GlmForTokenClassification, run
from glm_train.errors import ConfigError, DataError
from support.fitted import configured, cut_back, logits_of, result, same, saved_config, state
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
    import transformers

    folder = learned
    if not both:
        folder = tmp_path / "run"
        run.fit(configured(TASK, model_folder, learned.parent / "train.conll", folder), "test")
        assert "bidirectional" not in saved_config(folder)
        assert not same(result(folder), result(learned))
    ours = GlmForTokenClassification.from_pretrained(folder / "model")
    theirs = transformers.GlmForTokenClassification.from_pretrained(folder / "model")
    if both:  # transformers has a switch for it, which it does not read from the file
        for module in theirs.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
        theirs.config.is_causal = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    documents = [tokenizer(" ".join(word for word, _ in words(one)))["input_ids"] for one in SENTENCES]
    for mine, expected in zip(logits_of(ours, documents), logits_of(theirs, documents), strict=True):
        assert torch.allclose(mine, expected, atol=1e-5)


@pytest.fixture(scope="module")
def stopped_anywhere(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path):
    """A run with dropout and windows that kept the state of every step, and is best early on."""
    from support.model_folder import make_model_folder

    folder = tmp_path_factory.mktemp("exact")
    model = make_model_folder(
        folder / "model", tiny_tokenizer_folder, attention_dropout=0.2, classifier_dropout=0.2
    )
    train = conll(folder / "train.conll")

    def config(output: Path, resume: str = "never"):
        return configured(
            TASK,
            model,
            train,
            output,
            data__validation=train,
            data__max_length=12,
            batch__accumulate=2,
            task__class_weights="balanced",
            trainer__max_steps=6,
            trainer__validate_every=2,
            trainer__save_every=1,
            trainer__keep=100,
            trainer__result="best",
            resume=resume,
        )

    run.fit(config(folder / "whole"), "test")
    return folder, config


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_ends_as_if_never_stopped(stopped_anywhere, step: int) -> None:
    folder, config = stopped_anywhere
    whole, part = folder / "whole", cut_back(folder / "whole", folder / f"part{step}", step)
    assert run.fit(config(part, "auto"), "test").steps == 6
    assert same(result(part), result(whole))
    for later in range(step + 1, 7):
        assert same(state(part, later), state(whole, later))
    assert rows(part / "metrics.csv") == rows(whole / "metrics.csv")


def test_a_second_run_keeps_labels_and_head(tmp_path: Path, learned: Path) -> None:
    few = conll(tmp_path / "few.conll", ["Bob/B-PER sings/O"])
    config = configured(TASK, learned / "model", few, tmp_path / "run", optim__lr=1e-12, trainer__max_steps=1)
    run.fit(config, "test")
    assert saved_config(tmp_path / "run")["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    for name in ("score.weight", "score.bias"):
        assert np.allclose(result(tmp_path / "run")[name], result(learned)[name], atol=1e-9)


def test_a_second_run_refuses_types_that_the_model_has_not(tmp_path: Path, learned: Path) -> None:
    other = conll(tmp_path / "other.conll", ["Bob/B-PER sings/O", "Opel/B-ORG is/O fine/O"])
    with pytest.raises(DataError, match=r"other\.conll:4: .*'Opel': the type 'ORG' is not among the labels"):
        run.fit(configured(TASK, learned / "model", other, tmp_path / "run"), "test")
    assert not (tmp_path / "run").exists()


def test_a_second_run_takes_no_other_order(tmp_path: Path, learned: Path) -> None:
    data = conll(tmp_path / "train.conll")
    turned = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    with pytest.raises(ConfigError, match=r"task\.labels.*B-LOC"):
        run.fit(configured(TASK, learned / "model", data, tmp_path / "run", task__labels=turned), "test")
