"""Records of sequence classification: which keys are found, what a label may be, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from glm_train.data.encode import reason_of
from glm_train.data.sequence_records import (
    SequenceKeys,
    is_number,
    parse_label,
    parse_sequence,
    parse_texts,
)
from glm_train.errors import DataError


def refusal(value: dict[str, Any], keys: SequenceKeys = SequenceKeys(), problem: str = "auto") -> str:  # noqa: B008
    with pytest.raises(DataError) as caught:
        parse_sequence(value, keys, problem)
    return str(caught.value)


def test_keys() -> None:
    assert parse_sequence({"text": "a", "label": "x", "more": 1}) == ("a", None, "x")
    assert parse_sequence({"text": "a", "text_pair": "b", "label": "x"}) == ("a", "b", "x")
    keys = SequenceKeys("premise", "hypothesis", "gold")
    value = {"premise": "a", "hypothesis": "b", "gold": 2, "text": "c", "text_pair": "d"}
    assert parse_sequence(value, keys) == ("a", "b", 2)


@pytest.mark.parametrize("pair", [None, ""])
def test_pair_that_is_empty_is_none(pair: str | None) -> None:
    assert parse_texts({"text": "a", "text_pair": pair}) == ("a", None)


def test_keys_in_other_case_and_with_blanks() -> None:
    assert parse_sequence({" Text": "a", "Text_Pair": "b", "LABEL ": "x"}) == ("a", "b", "x")
    both = {"text": "a", "TEXT": "b", "label": "x"}
    assert parse_sequence(both)[0] == "a", "the exact name wins"
    assert "'Text' and 'TEXT' could both be 'text'" in refusal({"Text": "a", "TEXT": "b", "label": "x"})


def test_white_space_of_a_text_stays() -> None:
    assert parse_texts({"text": " a\n"}) == (" a\n", None)


LABELS = {
    "name": ("good", "good"),
    "name between blanks": (" good\t", "good"),
    "number as text": (" 007 ", "007"),
    "id": (3, 3),
    "whole float": (3.0, 3),
    "float": (3.5, 3.5),
    "true": (True, "True"),
    "list": (["b", " a ", "b"], ["b", "a"]),
    "no label": ([], []),
    "list as text": ('["a", "b"]', ["a", "b"]),
    "numbers": ([1, 1.5, 1], [1, 1.5, 1]),
    "brackets": ("[B]", "[B]"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels(case: str) -> None:
    raw, label = LABELS[case]
    found = parse_label(raw)
    assert found == label
    assert type(found) is type(label)


def test_separator() -> None:
    assert parse_label(" a |b|| a", "|") == ["a", "b"]
    assert parse_label("  ", "|") == []
    assert parse_label("a", "|") == ["a"]
    assert parse_label(["a|b"], "|") == ["a|b"], "a list is a list already"


def test_one_label_is_never_split() -> None:
    assert parse_label('["a"]', None, "single_label") == '["a"]'


REFUSED = {
    "no label": ({"text": "a"}, "there is no label under 'label'; the keys are: 'text'."),
    "near": ({"text": "a", "labels": "x"}, "Did you mean 'labels'? Name the right one with data.label_key."),
    "not near": (
        {"target": "a", "label": "x"},
        "the keys are: 'target', 'label'. Name the right one with data.text_key.",
    ),
    "number for text": ({"text": 5, "label": "x"}, "the text is a number"),
    "null for text": ({"text": None, "label": "x"}, "the text is null"),
    "empty text": ({"text": " \n", "label": "x"}, "the text is empty"),
    "list for pair": ({"text": "a", "text_pair": ["b"], "label": "x"}, "the second text is a list"),
    "empty label": ({"text": "a", "label": "  "}, "the label is empty"),
    "null": ({"text": "a", "label": None}, "the label is null"),
    "null in list": ({"text": "a", "label": ["x", None]}, "the label is null"),
    "object": ({"text": "a", "label": {"x": 1}}, "the label is an object"),
    "list in list": ({"text": "a", "label": [["x"]]}, "the label is a list"),
    "nan": ({"text": "a", "label": float("nan")}, "the label is nan, which is no number"),
    "flags": ({"text": "a", "label": [0, 1, 0]}, "the label lists a number twice"),
    "Python's list": ({"text": "a", "label": "['x', 'y']"}, "is not one in JSON: \"['x', 'y']\""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    value, message = REFUSED[case]
    assert message in refusal(value)


def test_list_where_one_label_is_wanted() -> None:
    assert "task.problem=single_label wants one" in refusal(
        {"text": "a", "label": ["x"]}, problem="single_label"
    )


def test_pair_that_was_named_must_be_there() -> None:
    assert "there is no pair under 'other'" in refusal(
        {"text": "a", "label": "x"}, SequenceKeys(pair="other")
    )


def test_faults_of_one_kind_have_one_name() -> None:
    kinds = {reason_of(DataError(refusal({"text": "a", "label": label}))) for label in ("", "  ")}
    assert kinds == {"the label is empty"}


@pytest.mark.parametrize("text", ["3", "-0.5", "+1e-3", ".5", "3."])
def test_numbers(text: str) -> None:
    assert is_number(text)


@pytest.mark.parametrize("text", ["", ".", "nan", "inf", "1_000", "1,5", "٣", "0x1", "1e", "1 2", "1e99999"])
def test_what_is_no_number(text: str) -> None:
    assert not is_number(text)
