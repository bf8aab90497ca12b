"""Labels of sequence classification: found, ordered, counted, refused where they would teach the wrong thing."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train.data import sequence_labels
from glm_train.data.sequence_labels import SequenceLabels, class_weights, discover_labels, given_labels
from glm_train.data.sequence_records import SequenceKeys
from glm_train.errors import ConfigError, DataError
from support.reading import refusal_by


def write(path: Path, labels: list[Any]) -> Path:
    path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels))
    return path


def csv(path: Path, labels: list[str]) -> Path:
    path.write_text("text,label\n" + "".join(f"a,{label}\n" for label in labels))
    return path


def found(folder: Path, records: list[Any], /, **options: Any) -> SequenceLabels:
    return discover_labels([write(folder / "t.jsonl", records)], cache_dir=folder / "cache", **options)


def found_csv(folder: Path, labels: list[str], **options: Any) -> SequenceLabels:
    return discover_labels([csv(folder / "t.csv", labels)], cache_dir=folder / "cache", **options)


FOUND: dict[str, tuple[list[Any], str, tuple[str, ...], tuple[int, ...]]] = {
    "names": (["b", "a", " b"], "single_label", ("a", "b"), (1, 2)),
    "numbers by value": ([10, 9, -1, 9], "single_label", ("-1", "9", "10"), (1, 2, 1)),
    "numbers among names": ([10, "a", 9], "single_label", ("10", "9", "a"), (1, 1, 1)),
    "numbers as text": (["10", "9"], "single_label", ("9", "10"), (1, 1)),
    "whole floats": ([1.0, 0.0, 1.0], "single_label", ("0", "1"), (1, 2)),
    "booleans": ([True, False, True], "single_label", ("False", "True"), (1, 2)),
    "lists": ([["b", "a"], [], ["b"]], "multi_label", ("a", "b"), (1, 2)),
    "a list and names": (["b", ["b", "a"]], "multi_label", ("a", "b"), (1, 2)),
    "a list with one name": ([["b"], []], "multi_label", ("b",), (1,)),
    "a fraction": ([1, 2.5, 3], "regression", ("LABEL_0",), ()),
    "a fraction as text": (["1", "2.5", "3"], "regression", ("LABEL_0",), ()),
    "fractions as text among names": (["2.5", "x"], "single_label", ("2.5", "x"), (1, 1)),
    "lists of numbers": ([[1, 2.5], [1, 1]], "regression", ("LABEL_0", "LABEL_1"), ()),
}


@pytest.mark.parametrize("case", [case for case in FOUND if case != "lists of numbers"])
def test_found(tmp_path: Path, case: str) -> None:
    labels, problem, names, counts = FOUND[case]
    result = found(tmp_path, labels)
    assert (result.problem, result.names, result.counts) == (problem, names, counts)
    assert result.examples == len(labels)


def test_several_numbers_a_text(tmp_path: Path) -> None:
    labels, problem, names, _ = FOUND["lists of numbers"]
    assert "set task.problem=regression" in refusal(tmp_path, labels)
    result = found(tmp_path, labels, problem="regression")
    assert (result.problem, result.names) == (problem, names)


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
def test_problem_that_was_named(tmp_path: Path, problem: str) -> None:
    result = found(tmp_path, [0.5, 1.5, 0.5], problem=problem)
    assert (result.problem, result.names, result.counts) == (problem, ("0.5", "1.5"), (2, 1))


def test_regression_of_whole_numbers(tmp_path: Path) -> None:
    result = found_csv(tmp_path, ["1", "2"], problem="regression")
    assert (result.problem, result.names) == ("regression", ("LABEL_0",))
    assert result.config_changes()["problem_type"] == "regression"


def test_order_does_not_depend_on_the_files(tmp_path: Path) -> None:
    one, other = write(tmp_path / "1.jsonl", ["c", "a"]), write(tmp_path / "2.jsonl", ["b", "a"])
    names = {discover_labels(files, cache_dir=tmp_path).names for files in ([one, other], [other, one])}
    assert names == {("a", "b", "c")}


def test_users_names(tmp_path: Path) -> None:
    result = found(tmp_path, ["b", 0, "b"], labels=["b", "a", "never"])
    assert (result.names, result.counts) == (("b", "a", "never"), (3, 0, 0))
    assert result.encode(1).tolist() == [1], "a number is an id"
    numbers = found(tmp_path, [5, 1], labels=["1", "5"])
    assert numbers.encode(1).tolist() == [0], "a number is the name that it spells"
    assert found(tmp_path, [["a"], []], labels=["b", "a"]).problem == "multi_label"


def test_ids_are_names_where_names_were_found(tmp_path: Path) -> None:
    result = found(tmp_path, ["b", "a"])
    with pytest.raises(DataError, match="the label '0' is not among the 2 labels: 'a', 'b'"):
        result.encode(0)


refusal = partial(refusal_by, found)


REFUSED: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "unknown": (["a", "bb"], {"labels": ["a", "bbb"]}, ":2: the label 'bb' is not among the 2 labels"),
    "nearest": (["a", "bb"], {"labels": ["a", "bbb"]}, "Did you mean 'bbb'?"),
    "no such id": (["a", 2], {"labels": ["a", "b"]}, ":2: the label 2 is no id of a label: there are 2"),
    "negative id": (["a", -1], {"labels": ["a", "b"]}, ":2: the label '-1' is not among"),
    "one label": (["a", "a "], {}, "all 2 records have the label 'a'"),
    "other case": (["pos", "neg", "Pos"], {}, ":3: the label 'Pos' looks like 'pos' of"),
    "other width": (["ａ", "b", "a"], {}, ":3: the label 'a' looks like 'ａ' of"),
    "other digits": (["1", "2", "1.0"], {"problem": "single_label"}, ":3: the label '1.0' looks like '1' of"),
    "names and fractions": ([1.5, "a"], {}, ":1: the label is a number with a fraction, and"),
    "decimal commas": (["1,5", "2"], {}, ":1: the label '1,5' looks like a number with a decimal comma"),
    "no labels at all": ([[], []], {}, "no record of the training files has any label"),
    "list for one": (["a", ["b"]], {"problem": "single_label"}, ":2: the label is a list"),
    "no label": (["a", None], {}, ":2: the label is null"),
    "all faulty": (["", None], {"on_error": "skip"}, ":1: the label is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(tmp_path: Path, case: str) -> None:
    labels, options, message = REFUSED[case]
    assert message in refusal(tmp_path, labels, **options)
    assert not list((tmp_path / "cache").glob("labels-*[!k]")), "nothing is kept of a refusal"


def test_names_that_look_alike_may_be_named(tmp_path: Path) -> None:
    assert found(tmp_path, ["pos", "Pos"], labels=["pos", "Pos"]).counts == (1, 1)


def test_too_many_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_labels, "MOST_LABELS", 3)
    assert len(found(tmp_path, list("abc")).names) == 3
    message = refusal(tmp_path, list("abcde"))
    assert ":4: more than 3 different labels: 'a', 'b', 'c' and so on" in message
    assert found(tmp_path, [1, 2, 3, 4, 5, 1.5]).problem == "regression", "numbers are no names"
    assert len(found(tmp_path, list("abcde"), labels=list("abcde")).names) == 5


def test_label_of_its_own_for_each_record(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(20)]
    assert ":1: no label occurs twice: 'text 0', 'text 1', 'text 2' and so on" in refusal(tmp_path, texts)
    assert len(found(tmp_path, texts[1:]).names) == 19
    assert len(found(tmp_path, [*texts, "text 0"]).names) == 20
    assert found(tmp_path, [*range(20), 0.5]).problem == "regression"


def test_faulty_records_are_passed_over(tmp_path: Path) -> None:
    assert found_csv(tmp_path, ["a", "", "b", "c,d"], on_error="skip").counts == (1, 1)


def test_settings_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.problem='regresion' is unknown.*mean 'regression'"):
        found(tmp_path, ["a", "b"], problem="regresion")
    with pytest.raises(ConfigError, match=r"task.labels names 'a' twice"):
        given_labels(["a", "a "])
    with pytest.raises(ConfigError, match="an empty name"):
        given_labels(["a", " "])


def test_second_run_reads_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.jsonl", ["b", "a", "b"])
    first = discover_labels([file], cache_dir=tmp_path / "cache")
    file.rename(tmp_path / "moved.jsonl")

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(sequence_labels, "read_items", refuse)
    again = discover_labels([tmp_path / "moved.jsonl"], cache_dir=tmp_path / "cache")
    assert again == first
    assert again.encode("b").tolist() == [1]
    with pytest.raises(AssertionError, match="was read again"):
        discover_labels([tmp_path / "moved.jsonl"], cache_dir=tmp_path / "cache", labels=["b", "a"])


def test_damaged_cache_is_made_again(tmp_path: Path) -> None:
    first = found(tmp_path, ["b", "a"])
    (kept,) = (tmp_path / "cache").glob("labels-*/labels.json")
    kept.write_text('{"names": ["b"')
    assert found(tmp_path, ["b", "a"]) == first


def test_columns_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("stars;review\n2;a\n1;b\n")
    keys = SequenceKeys(text="review", label="stars")
    assert discover_labels([path], keys=keys, cache_dir=tmp_path).names == ("1", "2")


def test_config_changes() -> None:
    assert SequenceLabels(("no", "yes"), "multi_label").config_changes() == {
        "num_labels": 2,
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
        "problem_type": "multi_label_classification",
    }


def test_labels_of_a_model() -> None:
    labels = SequenceLabels.of_model({1: "yes", 0: "no"}, "single_label_classification")
    assert (labels.names, labels.problem) == (("no", "yes"), "single_label")
    assert labels.encode(1).tolist() == labels.encode("yes").tolist() == [1]
    assert SequenceLabels.of_model({0: "LABEL_0"}, None).problem == "regression"
    assert SequenceLabels.of_model({0: "a", 1: "b"}, None).problem == "single_label"


def test_targets() -> None:
    flags = SequenceLabels(("a", "b", "c"), "multi_label")
    assert flags.encode(["c", "a"]).tolist() == [1, 0, 1]
    assert flags.encode([]).tolist() == [0, 0, 0]
    assert flags.encode("b").tolist() == [0, 1, 0]
    values = SequenceLabels(("LABEL_0", "LABEL_1"), "regression").encode([0.1, " 2e3".strip()])
    assert values.dtype == np.int32
    assert values.view(np.float32).tolist() == [np.float32(0.1), 2000.0]
    for encoded in (flags.encode([]), SequenceLabels(("a", "b")).encode("a")):
        assert encoded.dtype == np.int32


@pytest.mark.parametrize("label", ["x", "nan", 1e39, -1e39, 10**400, [1, 2], [], "1,5"])
def test_numbers_that_are_refused(label: Any) -> None:
    with pytest.raises(DataError, match="the label"):
        SequenceLabels(("LABEL_0",), "regression").encode(label)


def test_list_among_single_labels() -> None:
    with pytest.raises(
        DataError, match=r"the label is a list, \['a'\], and the other records have one label"
    ):
        SequenceLabels(("a", "b")).encode(["a"])


def test_labels_are_picklable() -> None:
    labels = SequenceLabels(("a", "b"), counts=(1, 2), examples=3)
    assert pickle.loads(pickle.dumps(labels)) == labels
    assert str(labels) == "one of 2 labels: a (1), b (2)"


def test_balanced_weights() -> None:
    weights = class_weights([6, 2, 0])
    assert weights.dtype == np.float32
    assert weights.tolist() == pytest.approx([8 / 12, 2.0, 1.0])
    assert (weights * [6, 2, 0]).sum() / 8 == pytest.approx(1.0)
    with pytest.raises(ValueError, match="one above 0"):
        class_weights([0, 0])
