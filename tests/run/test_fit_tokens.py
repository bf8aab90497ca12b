"""Runs of token classification, from files to a model folder that says what its answers mean."""

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
from support.fitted import configured, cut_back, logits_of, result, same, saved_config, scalars, state
from support.runs import rows

TASK = "token_classification"
SENTENCES = [
    "Anna/B-PER Lee/I-PER sings/O in/O Paris/B-LOC",
    "Weather/O in/O Bratislava/B-LOC ,/O says/O Bob/B-PER",
    "北京/B-LOC 今天/O 晴/O",
    "Nothing/O here/O",
    "Rio/B-LOC de/I-LOC Janeiro/I-LOC and/O Anna/B-PER",
    "Bob/B-PER is/O fine/O",
]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def words(sentence: str) -> list[tuple[str, str]]:
    return [tuple(word.rsplit("/", 1)) for word in sentence.split()]  # type: ignore[misc]


def conll(path: Path, sentences: list[str] = SENTENCES) -> Path:
    blocks = ["".join(f"{word}\t{tag}\n" for word, tag in words(one)) for one in sentences]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def records(path: Path, sentences: list[str] = SENTENCES) -> Path:
    pairs = [list(zip(*words(one), strict=True)) for one in sentences]
    return write_lines(path, [{"tokens": list(tokens), "tags": list(tags)} for tokens, tags in pairs])


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


def test_streaming_gives_the_same_weights(tmp_path: Path, model_folder: Path) -> None:
    train = records(tmp_path / "train.jsonl")
    settings = {"data__max_length": 12, "data__validation_fraction": 0.3, "task__class_weights": "balanced"}
    for name, streaming in (("kept", False), ("streamed", True)):
        run.fit(
            configured(TASK, model_folder, train, tmp_path / name, data__streaming=streaming, **settings),
            "test",
        )
    assert same(result(tmp_path / "streamed"), result(tmp_path / "kept"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.conll"])
def test_columns_cannot_be_streamed(tmp_path: Path, model_folder: Path, name: str) -> None:
    train = conll(tmp_path / name)
    settings: dict[str, Any] = {"data__format": "conll", "data__streaming": True}
    with pytest.raises(DataError, match=rf"{name}: data\.streaming .* JSON Lines"):
        run.fit(configured(TASK, model_folder, train, tmp_path / "run", **settings), "test")


def test_weights_of_files(tmp_path: Path, model_folder: Path) -> None:
    first, second = conll(tmp_path / "a.conll", SENTENCES[:2]), conll(tmp_path / "b.conll", SENTENCES[2:])
    twice = [SENTENCES[0], SENTENCES[0], SENTENCES[1], SENTENCES[1], *SENTENCES[2:]]
    both = conll(tmp_path / "both.conll", twice)
    weighted: Any = [f"{first}:2", second]
    for name, train in (("weighted", weighted), ("written", both)):
        run.fit(
            configured(TASK, model_folder, train, tmp_path / name, task__class_weights="balanced"), "test"
        )
    assert same(result(tmp_path / "weighted"), result(tmp_path / "written"))


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


def test_a_tag_that_only_validation_has_is_refused_with_its_place(tmp_path: Path, model_folder: Path) -> None:
    train, held = conll(tmp_path / "train.conll"), conll(tmp_path / "held.conll", ["Opel/B-LOK is/O"])
    config = configured(TASK, model_folder, train, tmp_path / "run", data__validation=held)
    with pytest.raises(DataError, match=r"held\.conll:1: .*'LOK'.*LOC"):
        run.fit(config, "test")
