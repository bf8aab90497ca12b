"""A rendered example is what transformers renders for the same folder and conversation; where tokens differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from text_chat_cases import (
    CALLS,
    EDGE_OF_THREE_ROLES,
    NEWLINE_0414,
    TEMPLATES,
    TIME,
    WEATHER,
    Z1_WITH_TOOLS,
    as_mappings,
    conversations,
    tokenizer_of,
)
from transformers import AutoTokenizer

from glm_train.text.chat import Conversation, Message, encode_chat, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS

SYSTEM, HI = Message("system", "Be brief."), Message("user", "北京天气？")
HELLO, BYE, NO = (
    Message("assistant", "Hello <b>&"),
    Message("user", "  bye\n"),
    Message("assistant", "今天 31 度。"),
)
CALL, RESULT = Message("assistant", '{"city": "北京"}', "get_weather"), Message("observation", "\n31 度")
TALKS: dict[str, tuple[Message, ...]] = {
    "one turn": (HI, HELLO),
    "system": (SYSTEM, HI, HELLO),
    "empty system": (Message("system", ""), HI, HELLO),
    "many turns": (SYSTEM, HI, HELLO, BYE, NO, HI, NO),
    "empty question": (Message("user", "\n"), HELLO),
    "call": (HI, CALL),
    "call and result": (HI, CALL, RESULT, NO),
    "parallel calls": (SYSTEM, HI, HELLO, CALL, CALL, RESULT, RESULT, NO, BYE, CALL, RESULT, HELLO),
}
ALL = {
    **TEMPLATES,
    "edge of three": EDGE_OF_THREE_ROLES,
    "0414 newline": NEWLINE_0414,
    "z1 tools": Z1_WITH_TOOLS,
}
TAKES_TOOLS = (*CALLS, "z1 tools")
TAKES_CALLS = (*TAKES_TOOLS, "0414 newline")


TOOLS: dict[str, tuple[dict[str, Any], ...] | None] = {"no": None, "one": (WEATHER,), "two": (WEATHER, TIME)}
# What a template cannot express is refused, which test_text_tools.py and test_text_thinking.py test.
CASES = [
    (name, talk, tools)
    for name in ALL
    for talk in TALKS
    for tools in TOOLS
    if (tools == "no" or name in TAKES_TOOLS)
    and ("call" not in talk or name in TAKES_CALLS)
    and (talk, name) != ("call", "0414 newline")
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[GlmTokenizer, Any]]:
    """Our tokenizer and transformers' on one folder, for each template."""
    made = {}
    for name, source in ALL.items():
        folder = tmp_path_factory.mktemp("parity")
        made[name] = (tokenizer_of(folder, source), AutoTokenizer.from_pretrained(folder))
    return made


def rendered_by_transformers(name: str, theirs: Any, chat: Conversation, **options: Any) -> Any:
    """What a user of transformers writes: tools as the argument, or in the system message for glm-4-9b-chat."""
    messages, tools = as_mappings(chat), list(chat.tools) if chat.tools else None
    if tools and name == "9b-chat":
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": ""})
        messages[0]["tools"], tools = tools, None
    return theirs.apply_chat_template(messages, tools=tools, tokenize=False, **options)


def encode(name: str, tokenizer: GlmTokenizer, messages: tuple[Message, ...], tools: Any) -> list[int]:
    """The ids of the example without the appended stop token; the last answer alone is trained where the
    template does not take more."""
    reasons = name.startswith("z1")
    if reasons:  # only text that is no answer to train: all but one of the answers are context
        messages = tuple(Message(m.role, m.content, m.metadata, train=m.role == "user") for m in messages)
    elif name == "0414 newline":
        messages = tuple(Message(m.role, m.content, m.metadata, train=not m.metadata) for m in messages)
    trained_on = "all" if reasons else "assistant"
    example = encode_chat(tokenizer, Conversation(messages, tools), train_on=trained_on)
    return example.input_ids[:-1] if messages[-1].train else example.input_ids


@pytest.mark.parametrize(("name", "talk", "told"), CASES)
def test_examples_and_prompts_equal_transformers(
    pairs: dict[str, tuple[GlmTokenizer, Any]], name: str, talk: str, told: str
) -> None:
    (ours, theirs), tools = pairs[name], TOOLS[told]
    chat = Conversation(TALKS[talk], tools)
    expected = rendered_by_transformers(name, theirs, chat)
    ids = encode(name, ours, TALKS[talk], tools)
    assert ours.decode(ids) == expected
    assert ids == theirs(expected, add_special_tokens=False)["input_ids"]
    questions = chat.messages[:-1]
    prompt = encode_prompt(ours, Conversation(questions, tools))
    expected = rendered_by_transformers(
        name, theirs, Conversation(questions, tools), add_generation_prompt=True
    )
    assert (ours.decode(prompt), prompt) == (
        expected,
        theirs(expected, add_special_tokens=False)["input_ids"],
    )


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_example_is_the_text_of_transformers(
    pairs: dict[str, tuple[GlmTokenizer, Any]], name: str, data: st.DataObject
) -> None:
    """Text always; ids where no control token is spelled and no answer begins with white space behind a prompt
    that ends with a line break."""
    ours, theirs = pairs[name]
    chat: Conversation = data.draw(conversations(calls=name in TAKES_CALLS, tools=name in TAKES_TOOLS))
    assume("</think>" not in "".join(m.content for m in chat.messages))
    if name.startswith("z1"):
        assume(any(m.role == "user" for m in chat.messages))
    elif name == "0414 newline":
        assume(any(m.train and m.role == "assistant" and not m.metadata for m in chat.messages))
    else:
        assume(any(m.train and m.role == "assistant" for m in chat.messages))
    ids = encode(name, ours, chat.messages, chat.tools)
    expected = rendered_by_transformers(name, theirs, chat)
    assert ours.decode(ids) == expected
    spelled = any(token in m.content for m in chat.messages for token in SPECIAL_TOKENS)
    joined = any(m.role == "assistant" and m.content[:1].isspace() for m in chat.messages)
    if not spelled and not (joined and name in ("edge", "edge of three", "0414 newline")):
        assert ids == theirs(expected, add_special_tokens=False)["input_ids"]


def test_where_control_tokens_are_spelled_only_the_ids_differ(tmp_path: Path) -> None:
    ours = tokenizer_of(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    chat = Conversation((Message("user", "<|assistant|>"), HELLO))
    text = rendered_by_transformers("0414", theirs, chat)
    ids = encode_chat(ours, chat).input_ids[:-1]
    assert ours.decode(ids) == text
    header = ours.token_to_id("<|assistant|>")
    assert (ids.count(header), theirs(text, add_special_tokens=False)["input_ids"].count(header)) == (1, 2)


@pytest.mark.parametrize(
    ("content", "joined", "apart"),
    [("x", "Ċ x", "Ċ x"), (" x", "Ċ Ġ x", "Ċ Ġ x"), ("\nx", "ĊĊ x", "Ċ Ċ x"), (" \nx", "Ċ Ġ Ċ x", "Ċ Ġ Ċ x")],
)
def test_a_leading_line_break_joins_the_header_as_on_a_server(
    tmp_path: Path, content: str, joined: str, apart: str
) -> None:
    """Servers render and then tokenise; the original ChatGLM4 tokenizer encodes header and content apart."""
    ours = tokenizer_of(tmp_path)
    ids = encode_chat(ours, Conversation((HI, Message("assistant", content)))).input_ids
    body = ids[ids.index(ours.token_to_id("<|assistant|>")) + 1 : -1]
    assert body == ours.encode_plain("\n" + content)
    assert " ".join(str(ours.id_to_token(id_)) for id_ in body) == joined
    original = ours.encode_plain("\n") + ours.encode_plain(content)
    assert " ".join(str(ours.id_to_token(id_)) for id_ in original) == apart
