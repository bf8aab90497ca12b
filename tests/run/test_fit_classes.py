"""What runs of both classification tasks share: they go on exactly, and a second run keeps the labels of the first."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train import run
from glm_train.errors import ConfigError, DataError
from support import fitted_texts, fitted_words
from support.classifier_folder import write_lines
from support.fitted import (
    KEEPS_ALL,
    configured,
    cut_back,
    ends_as_if_never_stopped,
    result,
    same,
    saved_config,
    state,
)
from support.fitted_words import record
from support.model_folder import make_model_folder

TEXTS, WORDS = fitted_texts.TASK, fitted_words.TASK
RECORDS: dict[str, list[Any]] = {TEXTS: fitted_texts.RECORDS, WORDS: fitted_words.RECORDS}
NAMES = {TEXTS: fitted_texts.NAMES, WORDS: fitted_words.NAMES}
# Of runs that are stopped: words are in windows.
DROPOUT: dict[str, dict[str, Any]] = {
    TEXTS: {"attention_dropout": 0.3},
    WORDS: {"attention_dropout": 0.2, "classifier_dropout": 0.2},
}
STOPPED: dict[str, dict[str, Any]] = {
    TEXTS: {
        "batch__documents": 1,
        "batch__accumulate": 3,
        "trainer__max_steps": 7,
        "trainer__validate_every": 3,
    },
    WORDS: {
        "data__max_length": 12,
        "batch__accumulate": 2,
        "trainer__max_steps": 6,
        "trainer__validate_every": 2,
    },
}
Begun = Callable[[str], tuple[Path, Callable[..., Any]]]
both_tasks = pytest.mark.parametrize("task", [TEXTS, WORDS])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Begun:
    """For a task: a run with dropout, accumulation, a best model and weighted classes that kept every state."""

    @cache
    def of(task: str) -> tuple[Path, Callable[..., Any]]:
        folder = tmp_path_factory.mktemp("exact")
        model = make_model_folder(folder / "model", tiny_tokenizer_folder, **DROPOUT[task])
        train = write_lines(folder / "train.jsonl", RECORDS[task])
        settings = {
            "data__validation": train,
            "task__class_weights": "balanced",
            **STOPPED[task],
            **KEEPS_ALL,
        }
        config = partial(configured, task, model, train, **settings)
        run.fit(config(folder / "whole"), "test")
        return folder, config

    return of


@pytest.mark.parametrize(("task", "step"), [(TEXTS, 2), (TEXTS, 5), (WORDS, 1), (WORDS, 4)])
def test_a_resumed_run_ends_as_if_never_stopped(begun: Begun, task: str, step: int) -> None:
    folder, config = begun(task)
    ends_as_if_never_stopped(config, folder / "whole", folder / f"part{step}", step)


def test_a_run_that_leaves_its_course_keeps_the_best_of_the_new_one(begun: Begun) -> None:
    """Gone back to an early state, with a learning rate that leaves the model as it is: the old best must not stay."""
    folder, config = begun(TEXTS)
    part = folder / "other"
    shutil.copytree(folder / "whole", part, ignore=shutil.ignore_patterns("model", "report.html"))
    for kept in (part / "checkpoints").iterdir():
        if int(kept.name.removeprefix("step-")) > 1:
            shutil.rmtree(kept)
    old = {path.name for path in (part / "best").glob("step-*")}
    assert old
    asked = config(part, resume="auto")
    still = dataclasses.replace(asked, optim=dataclasses.replace(asked.optim, lr=1e-12))
    result_of_run = run.fit(still, "test")
    assert "at step 3" in str(result_of_run.best)
    assert {path.name for path in (part / "best").glob("step-*")} == {"step-00000003"}
    before, after = state(part, 1), result(part)
    assert all(np.allclose(before[f"model.safetensors/{name}"], after[name], atol=1e-9) for name in after)


def test_the_best_may_be_asked_for_when_the_run_goes_on(begun: Begun) -> None:
    folder, config = begun(TEXTS)
    part = cut_back(folder / "whole", folder / "without", 4)
    shutil.rmtree(part / "best")
    assert run.fit(config(part, resume="auto"), "test").best is not None
    assert (part / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("task", "records", "heads"),
    [(TEXTS, RECORDS[TEXTS][:4], ["weight"]), (WORDS, [record("Bob/B-PER sings/O")], ["weight", "bias"])],
)
def test_a_second_run_keeps_labels_and_head(
    tmp_path: Path, begun: Begun, task: str, records: list[Any], heads: list[str]
) -> None:
    """It sees some of the labels alone, and a learning rate that leaves the model as it is."""
    first, few = begun(task)[0] / "whole", write_lines(tmp_path / "few.jsonl", records)
    config = configured(task, first / "model", few, tmp_path / "run", optim__lr=1e-12, trainer__max_steps=1)
    run.fit(config, "test")
    assert saved_config(tmp_path / "run")["id2label"] == {str(i): n for i, n in enumerate(NAMES[task])}
    for name in heads:
        before, after = (result(folder)[f"score.{name}"] for folder in (first, tmp_path / "run"))
        assert np.allclose(after, before, atol=1e-9)


UNKNOWN: dict[str, tuple[list[Any], str]] = {
    TEXTS: (
        [{"text": "No.", "label": "answer"}, {"text": "Sunny", "label": "wether"}],
        r"other\.jsonl:2: .*'wether'.*weather",
    ),
    WORDS: (
        [record("Bob/B-PER sings/O"), record("Opel/B-LOK is/O fine/O")],
        r"other\.jsonl:2: .*'Opel': the type 'LOK' is not among the labels.*LOC",
    ),
}


@both_tasks
def test_a_second_run_refuses_labels_that_the_model_has_not(tmp_path: Path, begun: Begun, task: str) -> None:
    records, said = UNKNOWN[task]
    other = write_lines(tmp_path / "other.jsonl", records)
    with pytest.raises(DataError, match=said):
        run.fit(configured(task, begun(task)[0] / "whole" / "model", other, tmp_path / "run"), "test")
    assert not (tmp_path / "run").exists()


@both_tasks
def test_a_label_that_only_validation_has_is_refused_with_its_place(
    tmp_path: Path, model_folder: Path, task: str
) -> None:
    records, said = UNKNOWN[task]
    train, held = tmp_path / "train.jsonl", write_lines(tmp_path / "other.jsonl", records)
    write_lines(train, RECORDS[task])
    with pytest.raises(DataError, match=said):
        run.fit(configured(task, model_folder, train, tmp_path / "run", data__validation=held), "test")


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (TEXTS, ["weather", "mood", "answer"]),
        (TEXTS, ["up", "down"]),
        (WORDS, ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]),
    ],
)
def test_other_labels_than_the_models_own_are_not_put_on_its_head(
    tmp_path: Path, begun: Begun, task: str, labels: list[str]
) -> None:
    data = write_lines(tmp_path / "train.jsonl", RECORDS[task])
    model = begun(task)[0] / "whole" / "model"
    with pytest.raises(ConfigError, match=r"task\.labels") as error:
        run.fit(configured(task, model, data, tmp_path / "run", task__labels=labels), "test")
    assert ", ".join(NAMES[task]) in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("task", "settings"), [(TEXTS, {}), (WORDS, {"data__max_length": 12})])
def test_streaming_gives_the_same_weights(
    tmp_path: Path, model_folder: Path, task: str, settings: dict[str, Any]
) -> None:
    train = write_lines(tmp_path / "train.jsonl", RECORDS[task])
    settings = {"task__class_weights": "balanced", "data__validation_fraction": 0.3, **settings}
    for name, streaming in (("kept", False), ("streamed", True)):
        config = configured(task, model_folder, train, tmp_path / name, data__streaming=streaming, **settings)
        run.fit(config, "test")
    assert same(result(tmp_path / "streamed"), result(tmp_path / "kept"))


@both_tasks
def test_weights_of_files(tmp_path: Path, model_folder: Path, task: str) -> None:
    some, rest = RECORDS[task][:2], RECORDS[task][2:]
    first, second = write_lines(tmp_path / "a.jsonl", some), write_lines(tmp_path / "b.jsonl", rest)
    written_out = write_lines(tmp_path / "both.jsonl", [*(one for one in some for _ in range(2)), *rest])
    for name, train in (("weighted", [f"{first}:2", second]), ("written", written_out)):
        config = configured(task, model_folder, train, tmp_path / name, task__class_weights="balanced")
        run.fit(config, "test")
    assert same(result(tmp_path / "weighted"), result(tmp_path / "written"))
