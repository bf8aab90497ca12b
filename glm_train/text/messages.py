"""A conversation in GLM's own terms, and the rules that one must keep to be trained on.

GLM's roles are system, user, assistant and observation (the result of a tool). An assistant message with
`metadata` is a tool call: the tool's name, with the arguments as JSON text in `content`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glm_train.errors import DataError, nearest
from glm_train.text.control import HALF_CHARACTER

ROLES = ("system", "user", "assistant", "observation")


@dataclass(frozen=True)
class Message:
    """One message. `train=False` keeps it in the text and takes it, and the stop token after it, out of the
    loss; `train=True` leaves the choice to `data.train_on`, and never trains a role that it does not."""

    role: str
    content: str
    metadata: str = ""
    train: bool = True

    @property
    def is_tool_call(self) -> bool:
        return self.role == "assistant" and bool(self.metadata)


@dataclass(frozen=True)
class Conversation:
    """Messages in order, and the tools (JSON objects, as OpenAI or GLM write them) that the model is told
    of."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None


def check_messages(messages: Sequence[Message]) -> None:
    """Raise `DataError`, naming the first message that cannot stand where it stands, and the cure.

    After an optional system message the turns are: user; then assistant text, or tool calls each followed,
    once all are made, by their observations. `None` stands for the start:

        None -> user          user -> assistant          text -> user | tool call
        tool call -> tool call | observation             observation -> observation | assistant | user
    """
    if _take_turns(messages):
        return
    previous: Message | None = None
    for i, message in enumerate(messages):
        _check_alone(message, f"messages[{i}]")
        if message.role == "system":
            if i:
                raise DataError(
                    f"messages[{i}]: a system message after the first position; the template would move it to"
                    " the front, so put it there, or make it part of a user message"
                )
            continue
        _check_order(previous, message, f"messages[{i}]")
        previous = message


def _take_turns(messages: Sequence[Message]) -> bool:
    """Whether the messages are what nearly all are, a user and an assistant in turn who say something: then no rule
    is broken. All are looked at together, which takes a tenth of the time."""
    roles = [message.role for message in messages]
    begin = 1 if roles[:1] == ["system"] else 0
    if roles[begin:] != (["user", "assistant"] * (len(roles) // 2 + 1))[: len(roles) - begin]:
        return False
    texts = [message.content for message in messages]
    if [message.metadata for message in messages] != [""] * len(texts) or {*map(type, texts)} != {str}:
        return False
    return all(texts[begin + 1 :: 2]) and not any(map(str.isspace, texts)) and is_whole("".join(texts))


def is_whole(text: str) -> bool:
    """Whether `text` holds no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_alone(message: Message, place: str) -> None:
    if message.role not in ROLES:
        known = ", ".join(ROLES)
        raise DataError(
            f"{place}: unknown role {message.role!r}; GLM knows {known}.{nearest(str(message.role), ROLES)}"
        )
    for name, text in (("content", message.content), ("metadata", message.metadata)):
        if not isinstance(text, str):
            raise DataError(
                f"{place}: {name} must be text, found {type(text).__name__}; write it as a string"
            )
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"{place}: {name} {HALF_CHARACTER}") from None
    if message.metadata and message.role != "assistant":
        raise DataError(
            f"{place}: metadata on a {message.role} message; only an assistant's tool call has it"
        )
    if "\n" in message.metadata:
        raise DataError(f"{place}: metadata is a tool's name, on one line, found {message.metadata!r}")
    if message.role == "assistant" and not message.metadata and not message.content.strip():
        raise DataError(
            f"{place}: an assistant message without content; give its answer, or remove the message"
        )


def _check_order(previous: Message | None, message: Message, place: str) -> None:
    role = message.role
    if role == "observation":
        if previous is None or not (previous.is_tool_call or previous.role == "observation"):
            raise DataError(
                f"{place}: an observation that answers no tool call; before it must stand an assistant"
                " message with metadata (the tool's name) and the arguments as content"
            )
        return
    if previous is None:
        if role == "assistant":
            raise DataError(
                f"{place}: the conversation starts with the assistant; put the user's message before it"
            )
        return
    if previous.is_tool_call and not message.is_tool_call:
        article = "an" if role == "assistant" else "a"
        raise DataError(
            f"{place}: {article} {role} message right after a tool call; put the tool's result (role observation)"
            " between them"
        )
    if previous.role == role == "user":
        raise DataError(
            f"{place}: two user messages in a row; join them, or put the assistant's answer between them"
        )
    if previous.role == role == "assistant" and not message.is_tool_call:
        raise DataError(
            f"{place}: two assistant answers in a row; join them, or put a user message between them"
        )
