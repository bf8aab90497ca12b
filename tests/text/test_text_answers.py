"""What a model wrote as text or calls: by the token that ended it, by the tools it knows, and never by guessing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.data.chat_formats import parse_chat
from glm_train.text.answers import (
    Call,
    Reply,
    call_in,
    may_become_call,
    parse_answer,
    read_answer,
    reply_of,
    tool_names,
)
from glm_train.text.chat import Conversation, Message, encode_chat
from glm_train.text.tokenizer import GlmTokenizer

CITY = '{"city": "北京"}'


@pytest.mark.parametrize(
    ("text", "stopped_by", "tools", "expected"),
    [
        ("\nSunny.", "<|user|>", (), Reply("Sunny.")),
        ("Sunny.", "<|endoftext|>", (), Reply("Sunny.")),
        ("\n\n  verse\n", None, (), Reply("\n  verse\n")),
        (f"get_weather\n{CITY}", "<|observation|>", (), Reply("", (Call("get_weather", CITY),))),
        (f"get_weather \n{CITY}\n", "<|observation|>", (), Reply("", (Call("get_weather", CITY),))),
        # a model that was trained behind a line break
        (f"\nget_weather\n{CITY}", "<|observation|>", (), Reply("", (Call("get_weather", CITY),))),
        # broken arguments are a call all the same: it handed over to a tool
        ('f\n{"a":', "<|observation|>", (), Reply("", (Call("f", '{"a":'),))),
        ("python\nprint(1)", "<|observation|>", ("python",), Reply("", (Call("python", "print(1)"),))),
        ("now", "<|observation|>", ("now",), Reply("", (Call("now", ""),))),
        # not handed over: text, unless the tool is known
        (f"Result\n{CITY}", "<|user|>", (), Reply(f"Result\n{CITY}")),
        (f"Result\n{CITY}", "<|user|>", ("get_weather",), Reply(f"Result\n{CITY}")),
        (f"f\n{CITY}", "<|endoftext|>", ("f",), Reply("", (Call("f", CITY),))),
        (f"\nf\n{CITY}", "<|user|>", ("f",), Reply(f"f\n{CITY}")),
        ('f\n{"ci', None, ("f",), Reply("", (Call("f", '{"ci'),))),
        ("\nI wait for it.", "<|observation|>", ("f",), Reply("I wait for it.")),
        (
            "\nI look.<|assistant|>f\n{}<|assistant|>g\n{}",
            "<|observation|>",
            (),
            Reply("I look.", (Call("f", "{}"), Call("g", "{}"))),
        ),
        ("", "<|user|>", (), Reply("")),
    ],
)
def test_an_answer_is_read(
    text: str, stopped_by: str | None, tools: tuple[str, ...], expected: Reply
) -> None:
    assert parse_answer(text, stopped_by, tools) == expected


def test_what_is_trained_reads_back_as_what_was_said(tiny_tokenizer_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    special = tokenizer.special_tokens
    stops = {special["<|user|>"], special["<|observation|>"]}
    turns = (
        Message("assistant", "I look at <|assistant|> and <|user|>."),
        Message("assistant", CITY, metadata="get_weather"),
        Message("assistant", "{}", metadata="now"),
    )
    chat = encode_chat(tokenizer, Conversation((Message("user", "Weather?"), *turns)), train_on="assistant")
    first = next(i for i, label in enumerate(chat.labels) if label != -100)
    answer = read_answer(tokenizer, [*chat.input_ids[first:], 5, 6], stops)
    assert answer.reply == reply_of(turns)
    assert answer.stopped_by == "<|observation|>"
    assert answer.tokens == len(chat.input_ids) - first
    assert answer.reply.as_turns() == list(turns)


def test_an_answer_that_reached_the_limit_has_no_stop(tiny_tokenizer_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    answer = read_answer(tokenizer, tokenizer.encode_plain("\nHello"), {0})
    assert (answer.text, answer.stopped_by) == ("Hello", None)
    assert answer.written == "\nHello"


def test_a_reply_is_a_message_that_data_files_may_hold() -> None:
    reply = Reply("I look.", (Call("get_weather", CITY), Call("now", "{}")))
    question = {"role": "user", "content": "?"}
    chat = parse_chat({"messages": [question, reply.as_message()]})
    assert reply_of(chat.messages[1:]) == reply
    assert Reply("Hi").as_message() == {"role": "assistant", "content": "Hi"}
    assert "content" not in Reply("", (Call("f", "{}"),)).as_message()
    assert Reply("  ").as_turns() == []


def test_calls_show_their_arguments_indented_where_they_are_json() -> None:
    assert str(Call("f", CITY)) == 'f\n{\n  "city": "北京"\n}'
    assert str(Call("f", "[1")) == "f\n[1"
    assert Call("f", "[1]").values() is None
    assert Call("f", "[" * 100_000).values() is None


def test_tools_are_called_by_name_or_by_type() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}, {"name": "g"}, {"type": "python"}]
    assert tool_names(tools) == ("f", "g", "python")
    assert tool_names(None) == ()


_PIECES = st.lists(
    st.sampled_from(["\n", "f", "get_weather", " ", "{", "}", "北", '"a": 1', "."]), max_size=8
)


@given(_PIECES, st.booleans(), st.sampled_from([(), ("f",), ("天气", "get_weather")]))
def test_what_was_shown_as_text_never_turns_out_to_be_a_call(
    pieces: list[str], handed_over: bool, tools: tuple[str, ...]
) -> None:
    part = "".join(pieces)
    if call_in(part, handed_over, tools) is not None:
        assert all(may_become_call(part[:end], tools) for end in range(len(part) + 1))
