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

With `stop_token="endoftext"`, LLaMA-Factory's convention, a turn ends with `<|endoftext|>`: it is the label where
the next role token stands in the ids, and both label and id at the end (`>` marks it):

    [gMASK] <sop> <|user|> \\n Hi <|assistant|> \\n Hello <|user|> \\n Bye <|assistant|> \\n So long  <|endoftext|>
                                               *    *     >                           *     *    *     >

Where the assistant goes on by itself its turn has not ended, and `<|assistant|>` stays the label.

Tokens are those of the rendered text. They differ from transformers' in two places, on purpose: control spellings
inside messages stay text, and a trained answer is tokenised apart from what its generation prompt gives (the
line break of GLM-Edge), because there the model begins to write. They differ from the original ChatGLM4 tokenizer,
which tokenises header and content apart, where content begins with white space that joins the line break before it.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from glm_train.errors import ConfigError, DataError, nearest
from glm_train.text.chat_format import chat_format
from glm_train.text.chat_labels import StopToken, TrainOn, labeller
from glm_train.text.chat_truncation import ExampleTooLong, fit
from glm_train.text.messages import Conversation, Message, check_messages
from glm_train.text.tokenizer import GlmTokenizer

__all__ = [
    "ChatTokens",
    "Conversation",
    "ExampleTooLong",
    "Message",
    "encode_chat",
    "encode_chat_packed",
    "encode_prompt",
]

Truncation = Literal["oldest_turns", "error", "drop"]


@dataclass(frozen=True)
class ChatTokens:
    """One training example. `labels[i]` is what is to be predicted at position i, -100 where nothing is: it is
    `input_ids[i]`, or `<|endoftext|>` at the end of a turn where that is asked for (unshifted: the loss compares
    the prediction at i - 1 with the label at i).

    `dropped_messages` counts messages that are not in `input_ids`, `dropped_tokens` the tokens that truncation
    took away; `cut` says that the last message is without its end, and so without a stop token.
    `stop_positions` are the indices of the trained stop tokens: a token is context where its label is -100, a
    stop where its index is one of these, and else trained content.
    """

    input_ids: list[int]
    labels: list[int]
    dropped_messages: int
    cut: bool
    dropped_tokens: int = 0
    stop_positions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class PackedChat:
    """`ChatTokens`, with `array("i")` in place of the long lists."""

    input_ids: array[int]
    labels: array[int]
    dropped_messages: int
    cut: bool
    dropped_tokens: int
    stop_positions: list[int]


def encode_chat(
    tokenizer: GlmTokenizer,
    conversation: Conversation,
    *,
    train_on: str = "assistant",
    max_length: int | None = None,
    truncation: str = "oldest_turns",
    stop_token: str = "role",
) -> ChatTokens:
    """Token ids and labels of a conversation.

    `train_on`: `assistant` every assistant message (tool calls are messages of their own), `last_assistant` the
    last one, `all` every token after the prefix (plain language modelling of the rendered text: tools, prompts
    and headers included). A message with `train=False` is never trained, nor is its stop token; it stays in
    the text. `train=True`, the default, leaves the choice to `train_on`. Messages after the last assistant
    message can train nothing and are dropped, whatever `train_on` is.

    `stop_token`: `role` the next role token, `endoftext` `<|endoftext|>` (see the top of this file).

    `truncation`, where the ids exceed `max_length` tokens (the appended stop token counts): `oldest_turns`
    drops untrained messages at the end, then whole exchanges, each from a user message to the next, oldest
    first, and keeps the prefix, tools and system message; where the last exchange alone is too long its end is
    cut off, which leaves that turn without a stop token. `error` raises `DataError`, `drop` raises
    `ExampleTooLong`, as `oldest_turns` does where nothing trained would remain.

    Raises `DataError` (without a place; the reader of the file adds it) for a conversation that breaks a rule
    of `messages.check_messages`, that the template cannot express, that would not be trained as it is served
    (see `chat_thinking.py`), or in which nothing is trained; `ConfigError` for an unknown option, or
    `<|endoftext|>` where the tokenizer has none.
    """
    chat = encode_chat_packed(
        tokenizer,
        conversation,
        train_on=train_on,
        max_length=max_length,
        truncation=truncation,
        stop_token=stop_token,
    )
    return ChatTokens(
        chat.input_ids.tolist(),
        chat.labels.tolist(),
        dropped_messages=chat.dropped_messages,
        cut=chat.cut,
        dropped_tokens=chat.dropped_tokens,
        stop_positions=chat.stop_positions,
    )


def encode_chat_packed(
    tokenizer: GlmTokenizer,
    conversation: Conversation,
    *,
    train_on: str,
    max_length: int | None,
    truncation: str,
    stop_token: str,
) -> PackedChat:
    """`encode_chat`, with `array("i")` in place of lists, which NumPy takes over as they are."""
    _check_option("train_on", train_on, get_args(TrainOn))
    _check_option("truncation", truncation, get_args(Truncation))
    _check_option("stop_token", stop_token, get_args(StopToken))
    check_messages(conversation.messages)
    kept = _up_to_last_assistant(conversation)
    encode = labeller(chat_format(tokenizer), train_on, stop_token)
    example = encode(kept)
    if not example.trains:
        raise DataError(_why_untrained(train_on))
    size = len(example.input_ids)
    if max_length is not None and size > max_length:
        if truncation == "oldest_turns":
            example = fit(kept, example, encode, max_length)
        else:
            kind = DataError if truncation == "error" else ExampleTooLong
            raise kind(
                f"the conversation has {size} tokens, and data.max_length is {max_length};"
                " raise it, shorten the conversation, or set data.truncation=oldest_turns"
            )
    return PackedChat(
        example.input_ids,
        example.labels,
        dropped_messages=len(conversation.messages) - example.messages,
        cut=example.cut,
        dropped_tokens=size - len(example.input_ids),
        stop_positions=example.stops,
    )


def encode_prompt(tokenizer: GlmTokenizer, conversation: Conversation) -> list[int]:
    """The ids from which a model writes the next assistant turn: the rendered text with a generation prompt.

    Assistant messages at the end are what is to be written, so they are left out: a training record gives the
    prompt of its last answer, and its answer has no part in it. Raises `DataError` as `encode_chat`, and where
    nothing is left to answer.
    """
    messages = list(conversation.messages)
    while messages and messages[-1].role == "assistant":
        messages.pop()
    check_messages(messages)
    if not messages or messages[-1].role == "system":
        raise DataError(
            "no message to answer; the last one before the answer must be a user's or an observation"
        )
    return (
        chat_format(tokenizer).encode_prompt(Conversation(tuple(messages), conversation.tools)).ids.tolist()
    )


def _up_to_last_assistant(conversation: Conversation) -> Conversation:
    messages = tuple(conversation.messages)
    for end in range(len(messages), 0, -1):
        if messages[end - 1].role == "assistant":
            return conversation if end == len(messages) else replace(conversation, messages=messages[:end])
    raise DataError(
        "no assistant message, so there is nothing to train; add the answer, or leave the record out"
    )


def _why_untrained(train_on: str) -> str:
    which = "the last assistant message has" if train_on == "last_assistant" else "every message has"
    return f"nothing is trained: {which} train: false; leave the record out, or train on one of its messages"


def _check_option(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"data.{name}={value!r} is not one of {', '.join(known)}.{nearest(value, known)}")
