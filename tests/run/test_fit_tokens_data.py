"""Runs of token classification on windows, split, streamed and weighted data, and what they refuse."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glm_train import GlmForTokenClassification, run
from glm_train.build_data import build_data, build_tokenizer
from glm_train.data.sequence_targets import class_weights
from glm_train.data.store import CONTINUES, IGNORE
from glm_train.errors import ConfigError, DataError
from support.classifier_folder import write_lines
from support.fitted import configured, logits_of, saved_config, scalars
from support.fitted_words import NAMES, SENTENCES, TASK, conll, words
from support.runs import rows


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_balanced_classes_weigh_as_computed_by_hand(
    tmp_path: Path, tiny_tokenizer_folder: Path, pieces: str
) -> None:
    from support.model_folder import make_model_folder

    model_folder = make_model_folder(tmp_path / "model", tiny_tokenizer_folder, classifier_dropout=0.0)
    config = configured(
        TASK,
        model_folder,
        conll(tmp_path / "train.conll"),
        tmp_path / "run",
        data__label_pieces=pieces,
        batch__documents=6,
        trainer__max_steps=1,
        task__class_weights="balanced",
    )
    tokenizer, model_config = build_tokenizer(config)
    store = build_data(config, tokenizer, model_config).train
    torch.manual_seed(config.seed)
    model = GlmForTokenClassification.from_pretrained(
        model_folder, num_labels=5, id2label=dict(enumerate(NAMES))
    )
    examples = [store[index] for index in range(len(store))]
    scores = torch.cat(logits_of(model, [ids.tolist() for ids, _ in examples]))
    labels = np.concatenate([labels for _, labels in examples])
    labelled = labels != IGNORE
    classes = labels[labelled] % CONTINUES
    assert (labels >= CONTINUES).any() == (pieces == "all")
    weights = torch.from_numpy(class_weights(np.bincount(classes, minlength=5)))
    targets = torch.from_numpy(classes).long()
    losses = F.cross_entropy(scores[torch.from_numpy(labelled)], targets, reduction="none") * weights[targets]
    run.fit(config, "test")
    assert scalars(tmp_path / "run", "train/loss")[1] == pytest.approx(float(losses.mean()), abs=1e-5)


def test_scores_count_each_word_of_a_long_document_once(tmp_path: Path, model_folder: Path) -> None:
    """Loss and accuracy of validation are the same in windows as they are computed one window at a time by hand."""
    long = [" ".join(SENTENCES)]
    config = configured(
        TASK,
        model_folder,
        conll(tmp_path / "train.conll", long),
        tmp_path / "run",
        data__validation=conll(tmp_path / "held.conll", long),
        data__max_length=16,
        data__label_pieces="all",
        trainer__max_steps=1,
        optim__lr=1e-12,
    )
    tokenizer, model_config = build_tokenizer(config)
    store = build_data(config, tokenizer, model_config).validation
    assert store is not None
    assert store.parts.tolist() == list(range(len(store)))
    assert len(store) > 3
    run.fit(config, "test")
    model = GlmForTokenClassification.from_pretrained(tmp_path / "run" / "model")
    right, seen, loss, pieces = 0, 0, 0.0, 0
    for index in range(len(store)):
        ids, labels = store[index]
        scores = logits_of(model, [ids.tolist()])[0]
        classes = torch.from_numpy(labels % CONTINUES).long()
        words_here = torch.from_numpy((labels >= 0) & (labels < CONTINUES))
        trained = torch.from_numpy(labels >= 0)
        loss += float(F.cross_entropy(scores[trained], classes[trained], reduction="sum"))
        pieces += int(trained.sum())
        right += int((scores.argmax(1) == classes)[words_here].sum())
        seen += int(words_here.sum())
    assert seen == sum(len(words(one)) for one in SENTENCES)
    assert scalars(tmp_path / "run", "val/loss")[1] == pytest.approx(loss / pieces, abs=1e-5)
    assert {"val/f1", "val/f1_argmax", "val/accuracy"} <= set(rows(tmp_path / "run" / "metrics.csv")[-1])


def test_no_record_is_on_both_sides_of_a_split(tmp_path: Path, model_folder: Path) -> None:
    several = [f"{one} {SENTENCES[0]} {SENTENCES[4]}" for one in SENTENCES]
    config = configured(
        TASK,
        model_folder,
        conll(tmp_path / "train.conll", several),
        tmp_path / "run",
        data__max_length=16,
        data__validation_fraction=0.4,
        trainer__max_steps=2,
    )
    tokenizer, model_config = build_tokenizer(config)
    data = build_data(config, tokenizer, model_config)
    assert data.validation is not None
    sides = [{store.source(i) for i in range(len(store))} for store in (data.train, data.validation)]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == len(several)
    for store in (data.train, data.validation):  # windows of a record follow one another
        assert all(after in (0, before + 1) for before, after in pairwise(store.parts.tolist()))
        assert max(store.parts) > 0
    assert run.fit(config, "test").metrics["val/loss"] > 0


@pytest.mark.parametrize("name", ["train.jsonl", "train.conll"])
def test_columns_cannot_be_streamed(tmp_path: Path, model_folder: Path, name: str) -> None:
    train = conll(tmp_path / name)
    settings: dict[str, Any] = {"data__format": "conll", "data__streaming": True}
    with pytest.raises(DataError, match=rf"{name}: data\.streaming .* JSON Lines"):
        run.fit(configured(TASK, model_folder, train, tmp_path / "run", **settings), "test")


def test_parts_of_speech_are_labels_of_single_words(tmp_path: Path, model_folder: Path) -> None:
    train = conll(tmp_path / "train.conll", ["Bob/NOUN sings/VERB", "Anna/NOUN is/VERB fine/ADJ"])
    config = configured(
        TASK,
        model_folder,
        train,
        tmp_path / "run",
        data__validation=train,
        task__metric="val/f1_micro",
        trainer__result="best",
    )
    assert run.fit(config, "test").metrics["val/f1_micro"] >= 0
    assert saved_config(tmp_path / "run")["id2label"] == {"0": "ADJ", "1": "NOUN", "2": "VERB"}


def test_a_measure_of_single_words_is_refused_for_entities(tmp_path: Path, model_folder: Path) -> None:
    train = conll(tmp_path / "train.conll")
    config = configured(
        TASK, model_folder, train, tmp_path / "run", data__validation=train, task__metric="val/f1_micro"
    )
    with pytest.raises(ConfigError, match=r"task\.metric=val/f1_micro.*val/f1, val/loss"):
        run.fit(config, "test")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("names", [["PER", "LOC"], ["O", "B-LOC", "B-PER", "I-PER"]])
def test_labels_that_make_no_entities_are_refused(
    tmp_path: Path, model_folder: Path, names: list[str]
) -> None:
    train = conll(tmp_path / "train.conll")
    with pytest.raises(DataError, match=r"train\.conll:\d+: .*task\.labels=\[O,B-LOC,I-LOC\]"):
        run.fit(configured(TASK, model_folder, train, tmp_path / "run", task__labels=names), "test")


def test_a_scheme_that_the_tags_do_not_follow_is_refused(tmp_path: Path, model_folder: Path) -> None:
    train = conll(tmp_path / "train.conll")
    with pytest.raises(DataError, match=r"train\.conll:3: word 3: .*whose entity has no end.*data\.scheme"):
        run.fit(configured(TASK, model_folder, train, tmp_path / "run", data__scheme="iobes"), "test")


def test_the_first_of_the_records_that_were_left_out_is_shown_where_nothing_is_left(
    tmp_path: Path, model_folder: Path
) -> None:
    train = write_lines(tmp_path / "train.jsonl", [{"tokens": ["a", "b"], "tags": ["O"]}])
    with pytest.raises(DataError, match=r"nothing to learn.*train\.jsonl:1: there are 2 `tokens`"):
        run.fit(configured(TASK, model_folder, train, tmp_path / "run", data__on_error="skip"), "test")
