"""ShareGPT records become the same conversations as their `messages` spelling."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from glm_train.data.chat_formats import parse_chat
from glm_train.text.messages import Message
from support.reading import refusal_by

HUMAN, GPT = {"from": "human", "value": "Weather?"}, {"from": "gpt", "value": "Sunny."}
RESULT = {"from": "observation", "value": '{"t": 31}'}
TOOLS = [{"name": "weather", "description": "查询", "parameters": {"type": "object", "properties": {}}}]


def call(value: Any) -> dict[str, Any]:
    return {"from": "function_call", "value": value if isinstance(value, str) else json.dumps(value)}


def chat(*entries: Any, **top: Any) -> dict[str, Any]:
    return {"conversations": list(entries), **top}


refusal = partial(refusal_by, parse_chat)


def test_both_spellings_of_the_roles() -> None:
    expected = (Message("system", "S"), Message("user", "Weather?"), Message("assistant", "Sunny."))
    system = {"from": "system", "value": "S"}
    assert parse_chat(chat(system, HUMAN, GPT)).messages == expected
    openai = [{**HUMAN, "from": "user"}, {**GPT, "from": "assistant"}]
    assert parse_chat(chat(system, *openai)).messages == expected
    assert parse_chat(chat(HUMAN, GPT, system="S")).messages == expected
    assert parse_chat(chat(system, HUMAN, GPT, system="S")).messages == expected
    roles = [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "Sunny."}]
    assert parse_chat(chat(*roles, system="S")).messages == expected


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS, ensure_ascii=False)])
@pytest.mark.parametrize("arguments", [{"city": "北京"}, '{"city": "北京"}'])
@pytest.mark.parametrize("result", [RESULT, {**RESULT, "from": "tool"}])
def test_calls_and_results(tools: Any, arguments: Any, result: dict[str, Any]) -> None:
    named = {"name": "weather", "arguments": arguments}
    conversation = parse_chat(chat(HUMAN, call(named), result, GPT, tools=tools))
    assert conversation.tools == tuple(TOOLS)
    assert conversation.messages == (
        Message("user", "Weather?"),
        Message("assistant", '{"city": "北京"}', metadata="weather"),
        Message("observation", '{"t": 31}'),
        Message("assistant", "Sunny."),
    )


def test_several_calls_in_a_row_and_in_one_list() -> None:
    first, second = ({"name": name, "arguments": {}} for name in ("weather", "time"))
    apart = chat(HUMAN, call(first), call(second), RESULT, RESULT, GPT)
    together = chat(HUMAN, call([first, second]), RESULT, RESULT, GPT)
    assert parse_chat(apart) == parse_chat(together)
    assert [message.metadata for message in parse_chat(apart).messages] == ["", "weather", "time", "", "", ""]


def test_train_of_each_message() -> None:
    messages = parse_chat(
        chat(
            HUMAN,
            {**GPT, "train": False},
            HUMAN,
            {**GPT, "weight": 0},
            HUMAN,
            {**call({"name": "f", "arguments": {}}), "train": False},
            RESULT,
            GPT,
        )
    ).messages
    assert [m.train for m in messages if m.role == "assistant"] == [False, False, False, True]


@pytest.mark.parametrize(
    "filled", [{"tools": None}, {"tools": ""}, {"tools": "[]"}, {"system": None}, {"system": ""}]
)
def test_what_tables_fill_in_counts_as_absent(filled: dict[str, Any]) -> None:
    bare = {**HUMAN, "train": None, "weight": None}
    assert parse_chat(chat(bare, GPT, **filled)) == parse_chat(chat(HUMAN, GPT))


def test_conversations_as_json_text() -> None:
    assert parse_chat({"conversations": json.dumps([HUMAN, GPT])}) == parse_chat(chat(HUMAN, GPT))


REFUSED = {
    "not a list": (chat() | {"conversations": {"a": 1}}, "`conversations` is an object. Write a list of messages"),
    "empty": (chat(), "`conversations` is an empty list"),
    "python text": ({"conversations": str([HUMAN, GPT])}, "It is written by Python's str(); write it with json.dumps"),
    "entry": (chat("hi"), "conversations[0]: the message is a text. Write an object with `from` and `value`"),
    "no sender": (chat({"value": "x"}), "conversations[0]: it is from None. Use one of: human, user, gpt"),
    "sender": (chat({"from": "humen", "value": "x"}), "it is from 'humen'. Use one of"),
    "nearest sender": (chat({"from": "humen", "value": "x"}), "Did you mean 'human'?"),
    "no value": (chat(HUMAN, {"from": "gpt"}), "conversations[1]: it has no `value`"),
    "number": (chat(HUMAN, {"from": "gpt", "value": 3}), "conversations[1]: `value` is a number. Write text"),
    "empty value": (chat(HUMAN, {"from": "gpt", "value": " "}), "conversations[1]: `value` is empty"),
    "misspelt": (chat(HUMAN, {**GPT, "trian": False}), "conversations[1]: it has the key 'trian'"),
    "assistant first": (chat(GPT, HUMAN), "conversations[0]: the conversation starts with the assistant"),
    "two users": (chat(HUMAN, HUMAN, GPT), "conversations[1]: two user messages in a row"),
    "call not JSON": (chat(HUMAN, call("f(x)"), RESULT, GPT), "the function call is a text, and not JSON"),
    "call without name": (chat(HUMAN, call({"arguments": {}}), RESULT, GPT), "the function call has no usable `name`"),
    "call of a list": (chat(HUMAN, call([]), RESULT, GPT), "conversations[1]: the function call is a list"),
    "arguments": (chat(HUMAN, call({"name": "f", "arguments": [1]}), RESULT, GPT), "the arguments of 'f'"),
    "result without call": (chat(HUMAN, RESULT, GPT), "conversations[1]: an observation that answers no tool call"),
    "index behind a list of calls": (
        chat(HUMAN, call([{"name": "f", "arguments": {}}] * 3), RESULT, HUMAN, HUMAN),
        "conversations[4]: two user messages in a row",
    ),
    "tools not JSON": (chat(HUMAN, GPT, tools="[{"), "`tools` is a text, and not JSON: Expecting property name"),
    "tool without name": (chat(HUMAN, GPT, tools='[{"x": 1}]'), "`tools[0]` has no tool name"),
    "two systems": (chat({"from": "system", "value": "T"}, HUMAN, GPT, system="S"), "it is another system"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    value, message = REFUSED[case]
    assert message in refusal(value)
