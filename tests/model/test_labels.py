"""The labels of a config: three names for one thing that never disagree, in and out of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import CheckpointError, ConfigError
from glm_train.model.config import GlmConfig

NAMES = {0: "sport", 1: "science", 2: "culture"}


def saved(config: GlmConfig, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def test_there_are_two_labels_by_default_and_a_save_does_not_mention_them(tmp_path: Path) -> None:
    config = GlmConfig()
    assert config.num_labels == 2
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1}
    assert not {"num_labels", "id2label", "label2id", "problem_type"} & saved(config, tmp_path).keys()


@pytest.mark.parametrize(
    "values",
    [
        {"id2label": NAMES},
        {"id2label": {"2": "culture", "0": "sport", "1": "science"}},
        {"label2id": {"science": 1, "culture": 2, "sport": 0}},
        {"id2label": NAMES, "label2id": None, "num_labels": 3},
        {"id2label": NAMES, "label2id": {"culture": 2, "sport": 0, "science": "1"}},
        # what transformers leaves behind where somebody sets id2label alone
        {"id2label": NAMES, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}},
    ],
)
def test_each_way_to_say_it(values: dict[str, Any]) -> None:
    config = GlmConfig(**values)
    assert list(config.id2label.items()) == list(NAMES.items())
    assert config.label2id == {"sport": 0, "science": 1, "culture": 2}
    assert config.num_labels == 3


def test_setting_one_sets_the_others() -> None:
    config = GlmConfig()
    config.id2label = {"0": "no", "1": "yes"}  # type: ignore[dict-item]
    assert (config.num_labels, config.label2id) == (2, {"no": 0, "yes": 1})
    config.num_labels = 2
    assert config.id2label == {0: "no", 1: "yes"}, "the same number keeps the names"
    config.num_labels = 1
    assert (config.id2label, config.label2id) == ({0: "LABEL_0"}, {"LABEL_0": 0})
    config.label2id = {"b": 1, "a": 0}
    assert config.id2label == {0: "a", 1: "b"}
    for name, value in (("id2label", {0: "a", 2: "b"}), ("num_labels", 0), ("label2id", {"a": 1})):
        with pytest.raises(ConfigError, match=name):
            setattr(config, name, value)
        assert config.id2label == {0: "a", 1: "b"}, "a refused value changes nothing"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_labels": 0}, "num_labels: expected a whole number from 1 to 1000000, found 0"),
        ({"num_labels": True}, "num_labels: expected"),
        ({"num_labels": 3.0}, "num_labels: expected"),
        ({"num_labels": 10**12}, "num_labels: expected"),
        ({"num_labels": 2, "id2label": NAMES}, "num_labels: 2, but 3 labels have names; give one"),
        ({"id2label": {}}, "id2label: expected an object"),
        ({"id2label": ["a", "b"]}, "id2label: expected an object"),
        ({"id2label": {0: "a", 2: "b"}}, "each number from 0 to 1 once; there is no 1"),
        ({"id2label": {1: "a", 2: "b"}}, "there is no 0"),
        ({"id2label": {"0": "a", "00": "b"}}, "there is no 1"),
        ({"id2label": {0: "a", "b": "b"}}, "there is no 1"),
        ({"id2label": {0: "a", True: "b"}}, "there is no 1"),
        ({"id2label": {0: "a", 1: "a"}}, "the label 'a' stands there twice"),
        ({"id2label": {0: "a", 1: 1}}, "id2label: expected names as labels, found 1"),
        ({"id2label": {0: "a", 1: None}}, "expected names as labels, found None"),
        ({"label2id": {"a": 0, "b": 0}}, "label2id: expected each number"),
        ({"label2id": "a"}, "label2id: expected an object"),
        (
            {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 1, "b": 0}},
            "does not match id2label, first at 'a'",
        ),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0}}, "does not match id2label, first at 'b'"),
        ({"problem_type": "regresion"}, "problem_type: .*Did you mean 'regression'"),
        ({"problem_type": ["regression"]}, "problem_type: expected one of"),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "needs two labels or more"),
        ({"classifier_dropout": 1.0}, "classifier_dropout: expected a number from 0 to below 1 or null"),
        ({"hidden_dropout": "0.1"}, "hidden_dropout: expected a number"),
        ({"token_classification_bias": 1}, "token_classification_bias: expected true or false"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GlmConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"num_labels": 5},
        {"id2label": NAMES},
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 12},
    ],
)
def test_transformers_reads_our_labels_and_we_read_theirs(tmp_path: Path, values: dict[str, Any]) -> None:
    from transformers import AutoConfig
    from transformers import GlmConfig as TheirConfig

    ours = GlmConfig(**values)
    text = saved(ours, tmp_path / "ours")
    assert "num_labels" not in text
    theirs = AutoConfig.from_pretrained(tmp_path / "ours")
    assert (theirs.id2label, theirs.label2id) == (ours.id2label, ours.label2id)
    assert (theirs.num_labels, theirs.problem_type) == (ours.num_labels, ours.problem_type)
    TheirConfig(**values).save_pretrained(tmp_path / "theirs")
    read = GlmConfig.from_pretrained(tmp_path / "theirs")
    assert (read.id2label, read.problem_type) == (ours.id2label, ours.problem_type)


def test_a_file_with_bad_labels_is_named(tmp_path: Path) -> None:
    values = {"model_type": "glm", "id2label": {"0": "a", "3": "b"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"config\.json: id2label"):
        GlmConfig.from_pretrained(tmp_path)


def test_the_heads_dropout_falls_back_as_in_transformers(tmp_path: Path) -> None:
    assert GlmConfig().head_dropout == 0.1
    assert GlmConfig(hidden_dropout=0.25).head_dropout == 0.25
    assert GlmConfig(hidden_dropout=0.25, classifier_dropout=0.0).head_dropout == 0.0
    assert GlmConfig(classifier_dropout=None, hidden_dropout=None).head_dropout == 0.1
    text = saved(GlmConfig(classifier_dropout=0.0, token_classification_bias=False), tmp_path)
    assert (text["classifier_dropout"], text["token_classification_bias"]) == (0.0, False)
    assert not {"classifier_dropout", "token_classification_bias"} & saved(GlmConfig(), tmp_path).keys()


def test_other_labels_by_a_change() -> None:
    config = GlmConfig(id2label=NAMES, problem_type="single_label_classification")
    assert config.with_changes(num_labels=3).id2label == NAMES
    assert config.with_changes(num_labels=4).id2label == {n: f"LABEL_{n}" for n in range(4)}
    assert config.with_changes(label2id={"b": 1, "a": 0}).id2label == {0: "a", 1: "b"}
    assert config.with_changes(hidden_act="gelu").id2label == NAMES
    with pytest.raises(ConfigError, match="problem_type"):
        config.with_changes(num_labels=1)
    with pytest.raises(ConfigError, match="give one of the two"):
        config.with_changes(num_labels=5, id2label=NAMES)
