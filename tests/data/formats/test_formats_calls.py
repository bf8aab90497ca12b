"""Tool calls in GLM's plain spelling, results in the order of their calls, tools as tables leave them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from glm_train.data.chat_formats import parse_chat
from glm_train.text.messages import Message
from support.reading import refusal_by

USER, ANSWER = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}
RESULT = {"role": "observation", "content": "31"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}, {"type": "python"}]


def plain(name: str = "weather", arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": json.dumps({"name": name, "arguments": arguments or {}, **more})}


def messages(*entries: dict[str, Any], **top: Any) -> tuple[Message, ...]:
    return parse_chat({"messages": list(entries), **top}).messages


refusal = partial(refusal_by, messages)


CALL = Message("assistant", "{}", metadata="weather")


def test_plain_call_of_a_declared_tool() -> None:
    assert messages(USER, plain(), RESULT, ANSWER, tools=TOOLS)[1] == CALL
    assert messages(USER, plain(), tools=TOOLS)[1] == CALL, "a call may be the last turn"
    assert (
        messages({"role": "system", "content": "", "tools": TOOLS}, USER, plain(), RESULT, ANSWER)[1] == CALL
    )
    assert messages(USER, {**plain(), "train": False}, RESULT, ANSWER)[1].train is False


@pytest.mark.parametrize("arguments", [{"a": "北京"}, '{"a": "北京"}'])
def test_arguments_as_object_or_text(arguments: Any) -> None:
    assert messages(USER, plain(arguments=arguments), RESULT, ANSWER)[1].content == '{"a": "北京"}'


def test_plain_call_without_tools_needs_a_result() -> None:
    assert messages(USER, plain(), RESULT, ANSWER)[1] == CALL
    assert messages(USER, plain())[1] == Message("assistant", plain()["content"])


@pytest.mark.parametrize(
    "content",
    [
        plain(extra=1)["content"],
        '{"name": "weather"}',
        '{"name": "", "arguments": {}}',
        '{"name": "a\\nb", "arguments": {}}',
        '{"name": "weather", "arguments": "x"}',
        '{"name": "weather", "arguments": [1]}',
        'weather\n{"name": "weather", "arguments": {}}',
        '[{"name": "weather", "arguments": {}}]',
    ],
)
def test_any_other_shape_stays_text(content: str) -> None:
    assert messages(USER, {"role": "assistant", "content": content}, tools=TOOLS)[1] == Message(
        "assistant", content
    )


def test_plain_call_of_an_undeclared_tool() -> None:
    text = plain("time")["content"]
    assert messages(USER, plain("time"), tools=TOOLS)[1] == Message("assistant", text)
    assert refusal(USER, plain("time"), RESULT, ANSWER, tools=TOOLS) == (
        "messages[1]: it calls 'time', which is not among the record's tools. Add it to `tools`."
    )


def call(*ids: str) -> dict[str, Any]:
    calls = [{"id": i, "type": "function", "function": {"name": f"f{i}", "arguments": "{}"}} for i in ids]
    return {"role": "assistant", "tool_calls": calls}


def result(of: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": of, "content": f"r{of}"}


def test_results_follow_the_order_of_their_calls() -> None:
    found = messages(
        USER, call("1", "2"), result("2"), result("1"), ANSWER, USER, call("3"), result("3"), ANSWER
    )
    assert [m.metadata or m.content for m in found] == [
        "?",
        "f1",
        "f2",
        "r1",
        "r2",
        "!",
        "?",
        "f3",
        "r3",
        "!",
    ]
    apart = messages(USER, call("1"), call("2"), result("2"), result("1"), ANSWER)
    assert [m.content for m in apart if m.role == "observation"] == ["r1", "r2"]


def test_result_of_an_unknown_call() -> None:
    text = refusal(USER, call("1"), result("9"), ANSWER)
    assert (
        text
        == "messages[2]: it answers the call '9', and the calls before it are '1'. Correct `tool_call_id`."
    )


def test_without_ids_the_order_in_the_file_stands() -> None:
    for odd in (call("1", "1"), call("", "2"), call("1", "2")):
        second = {**result("2")} if odd != call("1", "2") else {"role": "tool", "content": "r2"}
        found = messages(USER, odd, second, {"role": "tool", "content": "r1"}, ANSWER)
        assert [m.content for m in found if m.role == "observation"] == ["r2", "r1"]


def test_parameters_that_are_null_are_gone() -> None:
    """A file written from a table has the parameters of all tools in each of them."""
    properties = {"city": {"type": "string", "default": None}, "of_another_tool": None}
    function = {"name": "weather", "parameters": {"type": "object", "properties": properties}}
    for tool in ({"type": "function", "function": function}, function):
        (read,) = parse_chat({"messages": [USER, ANSWER], "tools": [tool]}).tools or ()
        kept = (read.get("function") or read)["parameters"]["properties"]
        assert kept == {"city": {"type": "string", "default": None}}
        assert "of_another_tool" in properties, "the record itself is left as it was"


def test_system_beside_messages() -> None:
    assert messages(USER, ANSWER, system="S")[0] == Message("system", "S")
    assert refusal({"role": "system", "content": "T"}, USER, ANSWER, system="S").startswith(
        "messages[0]: it is another"
    )
