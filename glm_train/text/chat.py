"""Chats to token ids with training labels: what is trained is what the model must write when it is served.

The whole conversation is rendered by the folder's own template and tokenised once, as a server does. A
trained assistant turn then supervises every token after its `<|assistant|>`, and the stop token, which is the
role token that comes next. `*` marks the labels:

    [gMASK] <sop> <|user|> \\n Hi <|assistant|> \\n Hello <|user|> \\n Bye <|assistant|> \\n So long  <|user|>
                                               *    *     *                           *     *    *     *

The last stop token is not in the rendered text: it is appended, `<|observation|>` after a tool call and else
`<|user|>`. Where one assistant message follows another (text then a tool call, or parallel calls), GLM itself
writes the `<|assistant|>` between them, so it is the stop token of the first and trained. An `<|assistant|>`
after a user message or an observation is written by the server, and never trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from glm_train.errors import ConfigError, DataError, nearest
from glm_train.text.chat_format import ChatFormat, chat_format
from glm_train.text.messages import Conversation, Message, check_messages
from glm_train.text.tokenizer import GlmTokenizer

__all__ = ["ChatTokens", "Conversation", "ExampleTooLong", "Message", "encode_chat", "encode_prompt"]

IGNORE = -100

TrainOn = Literal["assistant", "last_assistant", "all"]
Truncation = Literal["oldest_turns", "error", "drop"]


@dataclass(frozen=True)
class ChatTokens:
    """One training example. `labels[i]` is `input_ids[i]` where that token is trained and -100 elsewhere
    (unshifted: the loss compares the prediction at i - 1 with the label at i).

    `dropped_messages` counts messages that are not in `input_ids`; `cut` says that the end of the last turn
    is not.
    """

    input_ids: list[int]
    labels: list[int]
    dropped_messages: int
    cut: bool


class ExampleTooLong(DataError):
    """A conversation of which nothing trainable fits; the caller may leave it out and count it."""


def encode_chat(
    tokenizer: GlmTokenizer,
    conversation: Conversation,
    *,
    train_on: str = "assistant",
    max_length: int | None = None,
    truncation: str = "oldest_turns",
) -> ChatTokens:
    """Token ids and labels of a conversation.

    `train_on`: `assistant` every assistant turn, `last_assistant` the last one, `all` every token after the
    prefix (plain language modelling of the rendered text, prompts and headers included). A message with
    `train=False` is never trained. Messages after the last assistant turn can train nothing and are dropped,
    whatever `train_on` is.

    `truncation`, where the ids exceed `max_length` tokens (the appended stop token counts): `oldest_turns`
    drops whole exchanges, each from a user message to the next, oldest first, and keeps the prefix, tools and
    system message; where the last exchange alone is too long its end is cut off, which leaves that turn
    without a stop token. `error` raises `DataError`, `drop` raises `ExampleTooLong`, as `oldest_turns` does
    where nothing trained would remain.

    Raises `DataError` (without a place; the reader of the file adds it) for a conversation that breaks a rule
    of `messages.check_messages`, that the template cannot express, or in which nothing is trained.
    """
    _check_option("train_on", train_on, get_args(TrainOn))
    _check_option("truncation", truncation, get_args(Truncation))
    check_messages(conversation.messages)
    kept = _up_to_last_assistant(conversation)
    form = chat_format(tokenizer)
    example = _encode(form, kept, train_on)
    if not example.trains:
        raise DataError(_why_untrained(kept, train_on))
    if max_length is not None and len(example.input_ids) > max_length:
        if truncation == "oldest_turns":
            example = _fit(form, kept, example, train_on, max_length)
        else:
            kind = DataError if truncation == "error" else ExampleTooLong
            raise kind(
                f"the conversation has {len(example.input_ids)} tokens, and data.max_length is {max_length};"
                " raise it, shorten the conversation, or set data.truncation=oldest_turns"
            )
    dropped = len(conversation.messages) - example.messages
    return ChatTokens(example.input_ids, example.labels, dropped, example.cut)


def encode_prompt(tokenizer: GlmTokenizer, conversation: Conversation) -> list[int]:
    """The ids from which a model writes the next assistant turn: the rendered text with a generation prompt.

    Assistant messages at the end are what is to be written, so they are left out: a training record gives the
    prompt of its last answer. Raises `DataError` as `encode_chat`, and where nothing is left to answer.
    """
    messages = list(conversation.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    check_messages(messages)
    if not messages or messages[-1].role == "system":
        raise DataError(
            "no message to answer; the last one before the answer must be a user's or an observation"
        )
    form = chat_format(tokenizer)
    prompt = Conversation(tuple(messages), conversation.tools)
    ids, starts = form.encode(prompt, add_generation_prompt=True)
    if form.role_ids["assistant"] not in ids[starts[-1] :]:
        raise DataError(
            "the chat template writes no generation prompt; use the template of a GLM-4 chat model"
        )
    return ids


@dataclass(frozen=True)
class _Example:
    """An example in the making: `starts` are the indices of the role tokens that open its non-system
    messages."""

    input_ids: list[int]
    labels: list[int]
    starts: list[int]
    messages: int
    cut: bool = False

    @property
    def trains(self) -> bool:
        return any(label != IGNORE for label in self.labels)


def _encode(form: ChatFormat, conversation: Conversation, train_on: str) -> _Example:
    ids, starts = form.encode(conversation)
    messages = [message for message in conversation.messages if message.role != "system"]
    last = messages[-1]
    ends = [*starts[1:], len(ids)]
    if last.train:
        ids = [*ids, form.role_ids["observation" if last.is_tool_call else "user"]]
    labels = _labels_of_all(form, conversation, ids, starts) if train_on == "all" else [IGNORE] * len(ids)
    for message, start, end in zip(messages, starts, ends, strict=True):
        body = start + 1
        if train_on == "all":
            if not message.train:
                # Its stop token goes with it, but the header that a server writes after a prompt stays.
                stop = 1 if message.role == "assistant" else 0
                labels[body : end + stop] = [IGNORE] * (len(ids[body : end + stop]))
        elif message.role == "assistant" and message.train and (train_on == "assistant" or message is last):
            given = form.generation_suffix
            if given and ids[body : body + len(given)] == given:
                body += len(given)
            labels[body : end + 1] = ids[body : end + 1]
    return _Example(ids, labels, starts, len(conversation.messages))


def _labels_of_all(
    form: ChatFormat, conversation: Conversation, ids: list[int], starts: list[int]
) -> list[int]:
    """Every token but the prefix (`[gMASK]<sop>`), which servers write; without the system block, tools
    included, where the system message is not trained. The first token of all is predicted from nothing."""
    system = conversation.messages[0]
    first_role = next(i for i, id_ in enumerate(ids) if id_ in form.roles_by_id)
    first = starts[0] if system.role == "system" and not system.train else max(first_role, 1)
    return [IGNORE] * first + ids[first:]


def _fit(
    form: ChatFormat, conversation: Conversation, example: _Example, train_on: str, max_length: int
) -> _Example:
    """The newest exchanges that fit, else the beginning of the last one."""
    messages = conversation.messages
    system = messages[:1] if messages[0].role == "system" else ()
    turns = messages[len(system) :]
    excess = len(example.input_ids) - max_length
    # Role tokens are hard borders for the tokenizer, so an exchange has as many tokens as between its
    # borders. A template may write a turn otherwise where it stands first or last, hence the loop: it ends at
    # the first try for every GLM-4 template.
    users = [i for i, message in enumerate(turns) if message.role == "user"]
    for first in users[1:]:
        if example.starts[first] - example.starts[0] < excess and first != users[-1]:
            continue
        shorter = _encode(form, replace(conversation, messages=(*system, *turns[first:])), train_on)
        if len(shorter.input_ids) <= max_length or first == users[-1]:
            return _cut(shorter, max_length)
    return _cut(example, max_length)


def _cut(example: _Example, max_length: int) -> _Example:
    """The example where it fits, else its beginning, up to the last trained token of it."""
    if len(example.input_ids) > max_length:
        labels = example.labels[:max_length]
        while labels and labels[-1] == IGNORE:
            labels.pop()
        example = replace(example, input_ids=example.input_ids[: len(labels)], labels=labels, cut=True)
    if not example.trains:
        raise ExampleTooLong(
            f"no trained token fits into data.max_length={max_length}: tools, system message and the newest"
            " exchange fill it; raise data.max_length or shorten them"
        )
    return example


def _up_to_last_assistant(conversation: Conversation) -> Conversation:
    messages = tuple(conversation.messages)
    for end in range(len(messages), 0, -1):
        if messages[end - 1].role == "assistant":
            return replace(conversation, messages=messages[:end])
    raise DataError(
        "no assistant message, so there is nothing to train; add the answer, or leave the record out"
    )


def _why_untrained(conversation: Conversation, train_on: str) -> str:
    which = "the last assistant message has" if train_on == "last_assistant" else "every message has"
    return f"nothing is trained: {which} train: false; leave the record out, or train on one of its messages"


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"data.{name}={value!r} is not one of {', '.join(known)}.{nearest(value, known)}")
