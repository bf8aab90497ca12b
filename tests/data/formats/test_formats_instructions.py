"""Alpaca and prompt/completion records: the turns that they stand for, and what of them is trained."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from glm_train.data.chat_formats import parse_chat
from glm_train.text.messages import Message
from support.reading import refusal_by

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
U, A = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}


refusal = partial(refusal_by, parse_chat)


def test_alpaca() -> None:
    assert parse_chat(ALPACA).messages == (Message("user", "Add.\n1 2"), Message("assistant", "3"))
    for nothing in ("", None, " "):
        assert parse_chat({**ALPACA, "input": nothing}).messages[0].content == "Add."
    assert parse_chat({"instruction": "", "input": "1 2", "output": "3"}).messages[0].content == "1 2"


@pytest.mark.parametrize("as_text", [False, True])
def test_alpaca_with_all_it_may_have(as_text: bool) -> None:
    history: Any = [["q1", "a1"], ["q2", "a2"]]
    tools: Any = TOOLS
    if as_text:  # as in a CSV file
        history, tools = json.dumps(history), json.dumps(tools)
    conversation = parse_chat({**ALPACA, "system": "S", "history": history, "tools": tools})
    assert [(m.role, m.content) for m in conversation.messages] == [
        ("system", "S"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "q2"),
        ("assistant", "a2"),
        ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]
    assert conversation.tools == tuple(TOOLS)
    for nothing in ("", None, []):
        assert len(parse_chat({**ALPACA, "history": nothing}).messages) == 2


def test_prompt_and_completion_as_text() -> None:
    conversation = parse_chat({"prompt": "p", "completion": " c", "system": "S", "id": 3})
    assert conversation.messages == (Message("system", "S"), Message("user", "p"), Message("assistant", " c"))


def test_prompt_and_completion_as_messages() -> None:
    """Assistant turns of the prompt are context; a `train` of the completion counts."""
    prompt = [{"role": "system", "content": "S", "tools": TOOLS}, U, A, U]
    conversation = parse_chat({"prompt": prompt, "completion": [A, U, {**A, "train": False}]})
    assert [(m.role, m.train) for m in conversation.messages] == [
        ("system", True),
        ("user", True),
        ("assistant", False),
        ("user", True),
        ("assistant", True),
        ("user", True),
        ("assistant", False),
    ]
    assert conversation.tools == tuple(TOOLS)
    assert parse_chat({"prompt": [U], "completion": "a"}) == parse_chat({"prompt": "u", "completion": [A]})


def test_a_completion_may_be_a_call() -> None:
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    messages = parse_chat({"prompt": "p", "completion": [call], "tools": TOOLS}).messages
    assert messages[-1] == Message("assistant", "{}", metadata="f")


REFUSED = {
    "no instruction": ({**ALPACA, "instruction": " ", "input": ""}, "`instruction` is empty"),
    "no output": ({**ALPACA, "output": ""}, "`output` is empty. Fill it, or remove the record"),
    "output number": ({**ALPACA, "output": 3}, "`output` is a number. Write text"),
    "input list": ({**ALPACA, "input": ["x"]}, "`input` is a list. Write text"),
    "system object": ({**ALPACA, "system": {}}, "`system` is an object. Write text"),
    "history object": ({**ALPACA, "history": {"a": 1}}, "`history` is an object. Write a list of pairs"),
    "history not JSON": ({**ALPACA, "history": "q a"}, "`history` is a text, and not JSON"),
    "history pair": ({**ALPACA, "history": [["q", "a"], ["q"]]}, "history[1]: it is a list. Write a pair"),
    "history texts": ({**ALPACA, "history": [["q", None]]}, "history[0]: one of its two texts is null"),
    "history empty": ({**ALPACA, "history": [["q", ""]]}, "history[0]: one of its two texts is empty"),
    "misspelt": ({**ALPACA, "input": None, "inputs": "x"}, "the key 'inputs' is not read. Did you mean 'input'?"),
    "prompt number": ({"prompt": 1, "completion": "c"}, "`prompt` is a number. Write text"),
    "prompt empty": ({"prompt": "", "completion": "c"}, "`prompt` is empty"),
    "prompt no messages": ({"prompt": [], "completion": "c"}, "`prompt` is an empty list"),
    "completion empty": ({"prompt": "p", "completion": " "}, "`completion` is empty"),
    "completion of a user": ({"prompt": [U], "completion": [U]}, "`completion` has no assistant turn"),
    "prompt role": ({"prompt": [{"role": "x", "content": "y"}], "completion": "c"}, "prompt[0]: it has the role 'x'"),
    "two users": ({"prompt": [U, U], "completion": "c"}, "prompt[1]: two user messages in a row"),
    "two answers": ({"prompt": [U, A], "completion": "c"}, "completion: two assistant"),
    "tools in a user": ({"prompt": [{**U, "tools": TOOLS}], "completion": "c"}, "prompt[0]: it has `tools`"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    value, message = REFUSED[case]
    assert message in refusal(value)
