"""Conversations that cannot be trained on are refused with the message, the reason and the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.errors import DataError
from glm_train.text.chat import Conversation, Message, encode_chat
from glm_train.text.messages import check_messages
from glm_train.text.tokenizer import GlmTokenizer

SYSTEM, USER, TEXT = Message("system", ""), Message("user", "u"), Message("assistant", "a")
CALL, RESULT = Message("assistant", "{}", "f"), Message("observation", "o")


@pytest.mark.parametrize(
    "messages",
    [
        (USER, TEXT),
        (SYSTEM, USER, TEXT, USER, TEXT),
        (USER, CALL, RESULT, TEXT),
        (USER, TEXT, CALL, CALL, RESULT, RESULT, CALL, RESULT, USER, TEXT),
        (USER, CALL),
        (USER, CALL, RESULT, USER),
        (USER, Message("assistant", "", "f")),
        (Message("user", ""), TEXT),
    ],
)
def test_good_orders_pass(messages: tuple[Message, ...]) -> None:
    assert check_messages(messages) is None


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ((Message("tool", "x"),), r"messages\[0\]: unknown role 'tool'; GLM knows system, user"),
        ((Message("asistant", "x"),), "Did you mean 'assistant'"),
        ((Message("user", None),), r"messages\[0\]: content must be text, found NoneType"),  # type: ignore[arg-type]
        ((Message("user", ["x"]),), "content must be text, found list"),  # type: ignore[arg-type]
        ((USER, Message("assistant", "x", 3)), r"messages\[1\]: metadata must be text, found int"),  # type: ignore[arg-type]
        ((Message("user", "\ud83d"),), r"messages\[0\]: content holds half of a surrogate pair"),
        ((Message("user", "x", "f"),), "metadata on a user message"),
        ((USER, Message("assistant", "x", "f\ng")), "metadata is a tool's name, on one line"),
        ((USER, Message("assistant", " \n")), r"messages\[1\]: an assistant message without content"),
        ((USER, TEXT, SYSTEM), r"messages\[2\]: a system message after the first position"),
        ((SYSTEM, TEXT), r"messages\[1\]: the conversation starts with the assistant"),
        ((USER, USER), r"messages\[1\]: two user messages in a row"),
        ((USER, TEXT, TEXT), r"messages\[2\]: two assistant answers in a row"),
        ((USER, RESULT), r"messages\[1\]: an observation that answers no tool call"),
        ((RESULT,), r"messages\[0\]: an observation that answers no tool call"),
        ((USER, CALL, USER), r"messages\[2\]: a user message right after a tool call"),
        ((USER, CALL, TEXT), r"messages\[2\]: an assistant message right after a tool call"),
        ((USER, CALL, RESULT, TEXT, RESULT), r"messages\[4\]: an observation that answers no tool call"),
    ],
)
def test_bad_messages_and_orders_are_refused(messages: tuple[Message, ...], match: str) -> None:
    with pytest.raises(DataError, match=match):
        check_messages(messages)


@pytest.mark.parametrize(
    ("messages", "train_on", "match"),
    [
        ((), "assistant", "no assistant message"),
        ((SYSTEM, USER), "all", "no assistant message, so there is nothing to train; add the answer"),
        ((USER, Message("assistant", "a", train=False)), "assistant", "every message has train: false"),
        (
            (USER, TEXT, USER, Message("assistant", "a", train=False)),
            "last_assistant",
            "the last assistant message has",
        ),
    ],
)
def test_chats_that_train_nothing_are_refused(
    tiny_tokenizer_folder: Path, messages: tuple[Message, ...], train_on: str, match: str
) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    with pytest.raises(DataError, match=match):
        encode_chat(tokenizer, Conversation(messages), train_on=train_on)
