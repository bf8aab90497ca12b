"""A record's layout is recognised by its keys; what could be meant in two ways is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from glm_train.data.chat_formats import CHAT_FORMATS, detect_chat_format, parse_chat
from support.reading import refusal_by

RECORDS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]},
    "alpaca": {"instruction": "u", "output": "a"},
    "prompt_completion": {"prompt": "u", "completion": "a"},
}


refusal = partial(refusal_by, parse_chat)


def test_every_layout_has_a_record_here() -> None:
    assert set(RECORDS) == set(CHAT_FORMATS)


@pytest.mark.parametrize("name", RECORDS)
def test_recognised_and_named(name: str) -> None:
    record = {**RECORDS[name], "id": 7, "source": "x"}
    assert detect_chat_format(record) == name
    assert parse_chat(record) == parse_chat(record, name) == parse_chat(RECORDS["messages"])
    nulls = {key: None for other in RECORDS.values() for key in other}
    assert detect_chat_format({**nulls, **record}) == name, "a table has the columns of all layouts"


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("other", RECORDS)
def test_two_layouts_at_once(name: str, other: str) -> None:
    if name == other:
        return
    both = {**RECORDS[other], **RECORDS[name]}
    text = refusal(both)
    assert text.startswith("the record may be read in more than one way: ")
    assert name in text
    assert other in text
    assert text.endswith("Set data.format to one of them.")
    assert parse_chat(both, name) == parse_chat(RECORDS["messages"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {},
            "the record has no `messages` or `conversations` or `instruction` with `output` or `prompt` with",
        ),
        ({"text": "x"}, "Its keys: 'text'. Rename the record's keys."),
        ({"instruction": "x", "respnse": "y"}, "Its keys: 'instruction', 'respnse'."),
        ({"prompt": "x", "completions": "y"}, "Did you mean 'completion'"),
        ({"prompt": "x", "completion": None}, "`completion` is null. Fill it, or remove the record."),
        ({"conversation": []}, "Did you mean 'conversations'"),
    ],
)
def test_no_layout(value: dict[str, Any], message: str) -> None:
    assert message in refusal(value)


def test_a_named_layout_must_fit() -> None:
    text = refusal(RECORDS["messages"], "alpaca")
    assert text.startswith("the record has no `instruction`. Its keys: 'messages'.")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"functions": []}, "`functions` is not read. Write them as `tools`."),
        ({"tool": []}, "the key 'tool' is not read. Did you mean 'tools'?"),
        ({"sytem": "S"}, "Did you mean 'system'?"),
        ({"train": False}, "`train` is read in messages, not beside them."),
    ],
)
@pytest.mark.parametrize("name", RECORDS)
def test_keys_that_would_be_passed_over(name: str, extra: dict[str, Any], message: str) -> None:
    assert message in refusal({**RECORDS[name], **extra})


def test_keys_that_mean_nothing_here_are_passed_over() -> None:
    known = {"prompt_id": "x", "prompt": "u", "category": "y", "tools": None, "tool": None, "train": 3}
    assert parse_chat({**RECORDS["messages"], **known, "tools": [{"type": "python"}]}).tools == (
        {"type": "python"},
    )
