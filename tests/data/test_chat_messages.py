"""Chat records in all accepted spellings become the same conversation; all others are refused by message."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from glm_train.data.chat_formats import parse_chat
from glm_train.data.formats.messages import parse_messages
from glm_train.text.messages import Message
from support.reading import refusal_by

USER = {"role": "user", "content": "Weather in 北京?"}
ANSWER = {"role": "assistant", "content": "Sunny."}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "31C"}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "查询", "parameters": {"x": None}}}
]
ARGUMENTS = {"city": "北京", "n": 1.50}


def call(arguments: Any, **extra: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
        **extra,
    }


def chat(*messages: Any, **top: Any) -> dict[str, Any]:
    return {"messages": list(messages), **top}


refusal = partial(refusal_by, parse_chat)


def test_plain_chat() -> None:
    conversation = parse_messages(chat({"role": "system", "content": "Be brief."}, USER, ANSWER, id=7))
    assert conversation.messages == (
        Message("system", "Be brief."),
        Message("user", "Weather in 北京?"),
        Message("assistant", "Sunny."),
    )
    assert conversation.tools is None


@pytest.mark.parametrize(
    "turn",
    [
        call(ARGUMENTS, content=None),
        call(json.dumps(ARGUMENTS, ensure_ascii=False), content=""),
        {"role": "assistant", "metadata": "weather", "content": '{"city": "北京", "n": 1.5}'},
        {"role": "assistant", "content": json.dumps({"name": "weather", "arguments": ARGUMENTS})},
        {
            "role": "assistant",
            "content": '{"name": "weather", "arguments": "{\\"city\\": \\"北京\\", \\"n\\": 1.5}"}',
        },
    ],
)
@pytest.mark.parametrize("result_role", ["tool", "observation"])
def test_every_spelling_of_a_tool_call(turn: dict[str, Any], result_role: str) -> None:
    conversation = parse_messages(chat(USER, turn, {**RESULT, "role": result_role}, ANSWER, tools=TOOLS))
    assert conversation.messages[1] == Message("assistant", '{"city": "北京", "n": 1.5}', metadata="weather")
    assert conversation.messages[2] == Message("observation", "31C")
    assert conversation.tools == tuple(TOOLS)


def test_text_then_parallel_calls() -> None:
    both = call("{}", content="Let me see.")
    both["tool_calls"].append({"function": {"name": "time", "arguments": {}}})
    conversation = parse_messages(chat(USER, {**both, "train": False}, RESULT, RESULT, ANSWER))
    assert conversation.messages[1:4] == (
        Message("assistant", "Let me see.", train=False),
        Message("assistant", "{}", metadata="weather", train=False),
        Message("assistant", "{}", metadata="time", train=False),
    )
    assert len(conversation.messages) == 7


def test_argument_text_is_kept_to_the_letter() -> None:
    text = '{ "n":1.50 ,\n"city":"\\u5317" }'
    assert parse_messages(chat(USER, call(text), RESULT, ANSWER)).messages[1].content == text


def test_json_answer_without_a_result_stays_text() -> None:
    text = '{"name": "weather", "arguments": {}}'
    message = parse_messages(chat(USER, {"role": "assistant", "content": text})).messages[1]
    assert message == Message("assistant", text)


@pytest.mark.parametrize("tools", [TOOLS, json.dumps(TOOLS)])
def test_tools_in_the_system_message_move_out(tools: Any) -> None:
    empty = parse_messages(chat({"role": "system", "content": "", "tools": tools}, USER, ANSWER))
    assert empty.tools == tuple(TOOLS)
    assert [message.role for message in empty.messages] == ["user", "assistant"]
    kept = parse_messages(chat({"role": "system", "content": "S", "tools": tools}, USER, ANSWER, tools=TOOLS))
    assert kept.tools == tuple(TOOLS)
    assert kept.messages[0] == Message("system", "S")


@pytest.mark.parametrize("tools", [None, [], ""])
def test_no_tools(tools: Any) -> None:
    assert parse_messages(chat(USER, ANSWER, tools=tools)).tools is None


def test_native_tools_need_no_name() -> None:
    assert parse_messages(chat(USER, ANSWER, tools=[{"type": "python"}])).tools == ({"type": "python"},)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "now?"}]
    assert (
        parse_messages(chat({"role": "user", "content": parts}, ANSWER)).messages[0].content == "Weather now?"
    )


def test_null_keys_count_as_absent() -> None:
    filled = {
        "metadata": None,
        "tool_calls": None,
        "tools": None,
        "train": None,
        "name": None,
        "anything": None,
    }
    assert parse_messages(chat({**filled, **USER}, {**filled, **ANSWER})) == parse_messages(
        chat(USER, ANSWER)
    )


@pytest.mark.parametrize(
    ("extra", "train"),
    [
        ({}, True),
        ({"train": False}, False),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"weight": 1.0}, True),
    ],
)
def test_train_and_weight(extra: dict[str, Any], train: bool) -> None:
    assert parse_messages(chat(USER, {**ANSWER, **extra})).messages[1].train is train


def test_empty_tool_result_is_a_result() -> None:
    messages = parse_messages(chat(USER, call({}), {"role": "tool", "content": ""}, ANSWER)).messages
    assert messages[2] == Message("observation", "")


REFUSED = {
    "no messages": (
        {"mesages": [], "id": 1},
        "Its keys: 'mesages', 'id'. Did you mean 'messages'?",
    ),
    "no keys": ({}, "Its keys: none."),
    "messages null": ({"messages": None}, "`messages` is null"),
    "messages text": ({"messages": "hi"}, "`messages` is a text"),
    "messages empty": (chat(), "`messages` is an empty list"),
    "message text": (chat("hi"), "messages[0]: the message is a text"),
    "no role": (chat({"content": "hi"}), "messages[0]: it has no `role`"),
    "no content": (chat(USER, {"role": "assistant"}), "messages[1]: it has no `content`"),
    "content null": (chat(USER, {"role": "assistant", "content": None}), "messages[1]: it has no `content`"),
    "content number": (chat({"role": "user", "content": 3}), "messages[0]: `content` is a number"),
    "content object": (chat({"role": "user", "content": {}}), "messages[0]: `content` is an object"),
    "content empty": (chat({"role": "user", "content": " \n"}, ANSWER), "messages[0]: it has empty content"),
    "answer empty": (chat(USER, {"role": "assistant", "content": ""}), "messages[1]: it has empty content"),
    "image": (
        chat({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER),
        'messages[0]: `content[0]` is not a {"type": "text"} part but \'image_url\'',
    ),
    "unknown role": (chat({"role": "asistant", "content": "x"}), "'asistant'. Use one of: system, user"),
    "nearest role": (chat({"role": "asistant", "content": "x"}), "Did you mean 'assistant'?"),
    "capital role": (chat({"role": "User", "content": "x"}), "Did you mean 'user'?"),
    "ShareGPT role": (chat({"role": "gpt", "content": "x"}), "Did you mean 'assistant'?"),
    "developer": (chat({"role": "developer", "content": "x"}), "the role 'developer'"),
    "role number": (chat({"role": 1, "content": "x"}), "the role 1"),
    "role list": (chat({"role": ["user"], "content": "x"}), "the role ['user']"),
    "only system": (chat({"role": "system", "content": "x"}), "no assistant turn"),
    "only user": (chat(USER), "no assistant turn"),
    "assistant first": (chat(ANSWER, USER), "messages[0]: the conversation starts with the assistant"),
    "two users": (chat(USER, USER, ANSWER), "messages[1]: two user messages in a row"),
    "late system": (
        chat(USER, {"role": "system", "content": "x"}, ANSWER),
        "messages[1]: a system message after",
    ),
    "result without call": (
        chat(USER, ANSWER, RESULT, ANSWER),
        "messages[2]: an observation that answers no tool",
    ),
    "call without result": (
        chat(USER, call({}), USER, ANSWER),
        "messages[2]: a user message right after a tool call",
    ),
    "index in the file": (
        chat(
            {"role": "system", "content": "", "tools": TOOLS},
            USER,
            call({}, content="Wait."),
            RESULT,
            USER,
            USER,
        ),
        "messages[5]: two user messages in a row",
    ),
    "misspelt key": (chat(USER, {**ANSWER, "trian": False}), "the key 'trian', which is not read"),
    "nearest key": (chat(USER, {**ANSWER, "trian": False}), "Did you mean 'train'?"),
    "old function call": (chat(USER, {"role": "assistant", "function_call": {}}), "Write it as `tool_calls`"),
    "old functions": (chat(USER, ANSWER, functions=[]), "Write them as `tools`"),
    "reasoning": (chat(USER, {**ANSWER, "reasoning_content": "hm"}), "It would not be trained"),
    "train text": (chat(USER, {**ANSWER, "train": "false"}), "messages[1]: `train` is a text"),
    "train number": (chat(USER, {**ANSWER, "train": 0}), "messages[1]: `train` is a number"),
    "weight 0.5": (chat(USER, {**ANSWER, "weight": 0.5}), "`weight` is 0.5"),
    "weight true": (chat(USER, {**ANSWER, "weight": True}), "`weight` is True"),
    "weight against train": (chat(USER, {**ANSWER, "weight": 1, "train": False}), "contradict each other"),
    "user calls": (chat({**USER, "metadata": "weather"}, ANSWER), "messages[0]: it is not an assistant turn"),
    "metadata lines": (chat(USER, {**ANSWER, "metadata": "a\nb"}), "`metadata` must be the name of a tool"),
    "metadata and calls": (chat(USER, call({}, metadata="x")), "both `metadata` and `tool_calls`"),
    "calls object": (chat(USER, {"role": "assistant", "tool_calls": {"a": 1}}), "`tool_calls` is an object"),
    "call text": (chat(USER, {"role": "assistant", "tool_calls": ["x"]}), "`tool_calls[0]` is not a call"),
    "call kind": (
        chat(USER, {"role": "assistant", "tool_calls": [{"type": "custom"}]}),
        "`tool_calls[0]` is not a",
    ),
    "call without name": (
        chat(USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}),
        "`tool_calls[0]` has no usable `function.name`",
    ),
    "arguments not JSON": (chat(USER, call("{city}")), "the arguments of 'weather' are not a JSON object"),
    "arguments list": (chat(USER, call("[1]")), "the arguments of 'weather' are not a JSON object"),
    "arguments missing": (chat(USER, call(None)), "the arguments of 'weather' are not a JSON object"),
    "tools object": (chat(USER, ANSWER, tools={"a": 1}), "`tools` is an object, not a list of tools"),
    "tools text": (chat(USER, ANSWER, tools="weather"), "`tools` is a text, and not JSON"),
    "tool without name": (
        chat(USER, ANSWER, tools=[{"type": "function", "function": {}}]),
        "`tools[0]` has no tool",
    ),
    "tool type list": (
        chat(USER, ANSWER, tools=[{"type": ["x"], "name": "f"}]),
        "`tools[0].type` is a list",
    ),
    "tools in a user message": (chat({**USER, "tools": TOOLS}, ANSWER), "messages[0]: it has `tools`"),
    "tools twice": (
        chat({"role": "system", "content": "", "tools": TOOLS}, USER, ANSWER, tools=[{"type": "python"}]),
        "messages[0]: its `tools` differ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    value, message = REFUSED[case]
    assert message in refusal(value)
