"""Plain messages are read sooner, and to the same conversation or the same message of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.data.chat_formats import parse_chat
from glm_train.data.formats import messages, sharegpt
from glm_train.data.formats.plain import plain_conversation
from glm_train.errors import DataError

TEXTS = st.sampled_from(
    ["Hi", " ", "", "{", ' {"name": "f", "arguments": {}}', "\ud83d", "你好", None, 3, b"x", ["x"]]
)
ROLES = [
    "system",
    "user",
    "assistant",
    "tool",
    "observation",
    "human",
    "gpt",
    "function_call",
    "User",
    None,
    3,
    ["x"],
]
GOOD = [("user", "Hi"), ("assistant", "Hello")]
ENTRIES = st.lists(st.tuples(st.sampled_from(ROLES), TEXTS), max_size=2)
EXTRAS = st.sampled_from([{}, {}, {"train": False}, {"name": "x"}, {"foo": 1}, {"metadata": "f"}])


def parsed(record: dict[str, Any]) -> Any:
    try:
        return parse_chat(record)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize(
    ("key", "who", "what"), [("messages", "role", "content"), ("conversations", "from", "value")]
)
@settings(max_examples=400, deadline=None)
@given(
    odd=ENTRIES,
    at=st.integers(0, 4),
    extra=EXTRAS,
    beside=st.sampled_from([{}, {}, {"tools": []}, {"system": "S"}]),
)
def test_the_short_way_finds_what_the_long_one_finds(
    key: str, who: str, what: str, odd: list[Any], at: int, extra: dict[str, Any], beside: dict[str, Any]
) -> None:
    names = {"user": "human", "assistant": "gpt"} if key == "conversations" else {}
    good = [(names.get(role, role), text) for role, text in GOOD * 2]
    entries: list[Any] = [{who: role, what: text} for role, text in [*good[:at], *odd, *good[at:]]]
    entries[min(at, len(entries) - 1)] |= extra
    record = {key: entries, **beside}
    short = parsed(record)
    with pytest.MonkeyPatch.context() as patch:
        for module in (messages, sharegpt):
            patch.setattr(module, "plain_conversation", lambda *_: None)
        assert short == parsed(record)


def test_plain_messages_take_the_short_way_and_no_others() -> None:
    def read(*entries: Any) -> Any:
        return plain_conversation(entries, "role", "content", messages.PLAIN_ROLES)

    good = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    found = read({"role": "system", "content": "S"}, *good)
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert read(*good, {**good[0], "train": True}) is None
    assert read(good[0]) is None, "nothing to train"
    assert read(good[0], {"role": "assistant", "content": '\n{"name": "f", "arguments": {}}'}) is None
    assert read(good[0], good[0], good[1]) is None
    assert read("Hi", "Hello") is None
