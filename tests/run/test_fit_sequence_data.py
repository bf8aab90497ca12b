"""Runs of sequence classification on all kinds of labels and data, and what they refuse before they begin."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glm_train import GlmForSequenceClassification, run
from glm_train.build_data import build_data, build_tokenizer
from glm_train.config.schema import RunConfig
from glm_train.data.sequence_examples import sequence_ids
from glm_train.data.sequence_targets import class_weights
from glm_train.errors import ConfigError, DataError
from support.classifier_folder import write_lines
from support.fitted import configured, logits_of, result, same, saved_config, scalars
from support.fitted_texts import NAMES, TASK, TEXTS, texts


def one_step(model: Path, train: Path, output: Path, **settings: Any) -> RunConfig:
    """A run of a single step, on all eight texts."""
    return configured(TASK, model, train, output, batch__documents=8, trainer__max_steps=1, **settings)


def first_loss(config: Any) -> float:
    """The loss of the first step."""
    run.fit(config, "test")
    return scalars(Path(config.output_dir), "train/loss")[1]


def losses_by_hand(config: Any, names: list[str], problem: str) -> list[tuple[torch.Tensor, int]]:
    """The scores of an untrained model on every text, and the index of the text's label."""
    tokenizer, _ = build_tokenizer(config)
    torch.manual_seed(config.seed)
    model = GlmForSequenceClassification.from_pretrained(
        config.model.path, num_labels=len(names), id2label=dict(enumerate(names)), problem_type=problem
    )
    documents = [sequence_ids(tokenizer, text)[0] for text, _ in TEXTS]
    return [
        (scores, NAMES.index(name))
        for scores, (_, name) in zip(logits_of(model, documents), TEXTS, strict=True)
    ]


def test_balanced_classes_weigh_as_computed_by_hand(tmp_path: Path, model_folder: Path) -> None:
    train = texts(tmp_path / "train.jsonl")
    config = one_step(model_folder, train, tmp_path / "run", task__class_weights="balanced")
    weights = torch.tensor([8 / 9, 8 / 6, 8 / 9])
    assert np.allclose(class_weights([3, 2, 3]), weights)
    scored = losses_by_hand(config, NAMES, "single_label_classification")
    expected = sum(float(F.cross_entropy(s, torch.tensor(y)) * weights[y]) for s, y in scored) / 8
    assert first_loss(config) == pytest.approx(expected, abs=1e-5)


def test_several_labels(tmp_path: Path, model_folder: Path) -> None:
    sets: list[list[str]] = [["weather"], [], ["mood", "answer"]]
    train = texts(tmp_path / "train.jsonl", lambda index, name: sets[index % 3])
    config = one_step(model_folder, train, tmp_path / "run", data__validation=train, trainer__result="best")
    scored = losses_by_hand(config, NAMES, "multi_label_classification")
    flags = torch.tensor([[float(name in sets[i % 3]) for name in NAMES] for i in range(8)])
    expected = F.binary_cross_entropy_with_logits(torch.stack([s for s, _ in scored]), flags)
    assert first_loss(config) == pytest.approx(float(expected), abs=1e-5)
    assert saved_config(tmp_path / "run")["problem_type"] == "multi_label_classification"
    assert set(scalars(tmp_path / "run", "val/f1")) == {1}


def test_numbers(tmp_path: Path, model_folder: Path) -> None:
    train = texts(tmp_path / "train.jsonl", lambda index, name: index / 4)
    config = one_step(model_folder, train, tmp_path / "run", data__validation=train, trainer__result="best")
    scored = losses_by_hand(config, ["LABEL_0"], "regression")
    expected = F.mse_loss(torch.cat([s for s, _ in scored]), torch.arange(8) / 4)
    assert first_loss(config) == pytest.approx(float(expected), abs=1e-5)
    assert saved_config(tmp_path / "run")["problem_type"] == "regression"
    assert set(scalars(tmp_path / "run", "val/mse")) == {1}


def test_whole_numbers_after_a_regression_stay_numbers(tmp_path: Path, model_folder: Path) -> None:
    train = texts(tmp_path / "first.jsonl", lambda index, name: index / 4)
    run.fit(configured(TASK, model_folder, train, tmp_path / "first"), "test")
    stars = texts(tmp_path / "stars.jsonl", lambda index, name: 1 + index % 5)
    run.fit(configured(TASK, tmp_path / "first" / "model", stars, tmp_path / "second"), "test")
    assert saved_config(tmp_path / "second")["problem_type"] == "regression"
    assert result(tmp_path / "second")["score.weight"].shape == (1, 32)


def test_pairs_of_texts_are_one_document(tmp_path: Path, model_folder: Path) -> None:
    values = [{"premise": text, "hypothesis": "No.", "gold": name} for text, name in TEXTS]
    train = write_lines(tmp_path / "train.jsonl", values)
    config = configured(
        TASK,
        model_folder,
        train,
        tmp_path / "run",
        data__text_key="premise",
        data__pair_key="hypothesis",
        data__label_key="gold",
    )
    tokenizer, model_config = build_tokenizer(config)
    store = build_data(config, tokenizer, model_config).train
    assert store[0][0].tolist() == tokenizer(f"{TEXTS[0][0]}\nNo.")["input_ids"]
    assert run.fit(config, "test").steps == 4


def test_both_directions_are_another_model_and_saved(tmp_path: Path, model_folder: Path) -> None:
    train = texts(tmp_path / "train.jsonl")
    for both in (False, True):
        run.fit(
            configured(TASK, model_folder, train, tmp_path / str(both), model__bidirectional=both), "test"
        )
    assert not same(result(tmp_path / "True"), result(tmp_path / "False"))
    assert saved_config(tmp_path / "True")["bidirectional"] is True
    assert "bidirectional" not in saved_config(tmp_path / "False")


@pytest.mark.parametrize(
    ("label", "metric", "known"),
    [
        (lambda i, n: i / 4, "val/accuracy", "val/mse"),
        (lambda i, n: n, "val/mse", "val/accuracy"),
        (lambda i, n: [n], "val/pearson", "val/f1"),
    ],
)
def test_a_measure_that_the_labels_cannot_have_is_refused_first(
    tmp_path: Path, model_folder: Path, label: Any, metric: str, known: str
) -> None:
    train = texts(tmp_path / "train.jsonl", label)
    config = configured(
        TASK, model_folder, train, tmp_path / "run", data__validation=train, task__metric=metric
    )
    with pytest.raises(ConfigError, match=rf"task\.metric={metric}.*{known}"):
        run.fit(config, "test")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("label", [lambda i, n: [n], lambda i, n: i / 4], ids=["several", "numbers"])
def test_class_weights_without_single_labels_are_refused_before_anything_is_tokenised(
    tmp_path: Path, model_folder: Path, label: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenised(*_: Any, **__: Any) -> None:
        raise AssertionError("the data were prepared")

    monkeypatch.setattr("glm_train.build_data.prepare_sequence", tokenised)
    train = texts(tmp_path / "train.jsonl", label)
    config = configured(TASK, model_folder, train, tmp_path / "run", task__class_weights="balanced")
    with pytest.raises(ConfigError, match=r"task\.class_weights=balanced weighs single labels"):
        run.fit(config, "test")


def test_what_is_cut_and_what_is_left_out_is_said_of_texts(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = texts(tmp_path / "train.jsonl")
    run.fit(configured(TASK, model_folder, train, tmp_path / "run", data__max_length=8), "test")
    printed = capsys.readouterr().out
    assert "texts to data.max_length" in printed
    assert "answer of" not in printed
    assert re.search(r"^data        8 texts, \d+ tokens$", printed, re.M)
    assert " tokens a step (2 texts)\n" in printed
    long = write_lines(tmp_path / "long.jsonl", [{"text": t, "label": n} for t, n in (TEXTS[0], TEXTS[2])])
    settings = {"data__max_length": 5, "data__truncation": "drop"}
    with pytest.raises(DataError, match=r"no example is left .*data\.truncation=end") as error:
        run.fit(configured(TASK, model_folder, long, tmp_path / "other", **settings), "test")
    assert "train_on" not in str(error.value)


def test_a_folder_that_is_no_model_is_named_for_what_it_is(tmp_path: Path) -> None:
    train = texts(tmp_path / "train.jsonl")
    adapter, past = tmp_path / "adapter", tmp_path / "past"
    for folder, name in ((adapter, "adapter_config.json"), (past / "model", "config.json")):
        folder.mkdir(parents=True)
        (folder / name).write_text("{}")
    (past / "config.yaml").write_text("seed: 0\n")
    for folder, said in ((adapter, "glm-train export"), (past, f"Name its model, {past / 'model'}")):
        with pytest.raises(ConfigError, match=rf"model\.path={folder}: .*{said}"):
            run.fit(configured(TASK, folder, train, tmp_path / "run"), "test")


def test_reasons_say_what_is_wrong_and_not_where(tmp_path: Path) -> None:
    from glm_train.data.encode import reason_of

    label = DataError("the label 'x' is not among the 2 labels: 'a', 'b'. Did you mean 'a'?")
    assert reason_of(label) == "the label '...' is not among the N labels: ..."
    tag = DataError("word 3, 'Anna': its tag is 'B-DAT', and the labels are PER, LOC. Name O.")
    assert reason_of(tag) == "its tag is '...', and the labels are PER, LOC"


def test_preview_tells_of_texts_with_two_labels(tmp_path: Path, model_folder: Path) -> None:
    from glm_train.preview.label_report import describe

    values = [("No.", "answer"), ("Yes", "answer"), ("No.", "mood"), ("No.", "mood"), ("Yes", "answer")]
    train = write_lines(tmp_path / "train.jsonl", [{"text": t, "label": n} for t, n in values])
    config = configured(TASK, model_folder, train, tmp_path / "run")
    tokenizer, model_config = build_tokenizer(config)
    data = build_data(config, tokenizer, model_config)
    found = describe({"train": data.train}, ["answer", "mood"], data.problem, 0.01)
    assert found.notes == [f"train: 1 texts stand more than once with different labels (first: {train}:3)"]
