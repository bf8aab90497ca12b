"""What a model wrote, read as a message: text, or calls of tools.

After `<|assistant|>` GLM writes a line break and its text, or the name of a tool, a line break and the arguments. It
begins another part of its turn with `<|assistant|>` itself, and ends a turn with calls by `<|observation|>`:

    \\n Sunny.                                                 <|user|>          text
    get_weather \\n {"city": "北京"}                            <|observation|>   a call
    \\n I look. <|assistant|> f \\n {} <|assistant|> g \\n {}     <|observation|>   text, then two calls
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glm_train.text.messages import Message
from glm_train.text.tokenizer import GlmTokenizer

ASSISTANT, OBSERVATION = "<|assistant|>", "<|observation|>"
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


@dataclass(frozen=True)
class Call:
    """A tool's name, and its arguments as the model wrote them: JSON text, where the model did well."""

    name: str
    arguments: str

    def values(self) -> dict[str, Any] | None:
        """The arguments by name; None where they are no JSON object."""
        try:
            read = json.loads(self.arguments)
        except (ValueError, RecursionError):
            return None
        return read if isinstance(read, dict) else None

    def __str__(self) -> str:
        """The name, then the arguments, indented where they are JSON."""
        values = self.values()
        shown = self.arguments if values is None else json.dumps(values, ensure_ascii=False, indent=2)
        return f"{self.name}\n{shown}"


@dataclass(frozen=True)
class Reply:
    """An assistant's turn: text, calls, or text and then calls."""

    content: str = ""
    calls: tuple[Call, ...] = ()

    def as_message(self) -> dict[str, Any]:
        """OpenAI's form, as data files have it: `content`, `tool_calls` or both."""
        if not self.calls:
            return {"role": "assistant", "content": self.content}
        made = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.calls
        ]
        text = {"content": self.content} if self.content else {}
        return {"role": "assistant", **text, "tool_calls": made}

    def as_turns(self) -> list[Message]:
        """The messages in GLM's own terms, to go on from; empty where nothing was said."""
        text = [Message("assistant", self.content)] if self.content.strip() else []
        return [*text, *(Message("assistant", call.arguments, metadata=call.name) for call in self.calls)]


@dataclass(frozen=True)
class Answer:
    """A reply, which token ended it (None: the length limit), its tokens with that one, and its text as written,
    without that one."""

    reply: Reply
    stopped_by: str | None
    tokens: int
    written: str

    @property
    def text(self) -> str:
        """What was said beside calls."""
        return self.reply.content


def read_answer(
    tokenizer: GlmTokenizer, ids: Sequence[int], stop_ids: Collection[int], tools: Collection[str] = ()
) -> Answer:
    """The answer that `ids` are: what the model made up to its first stop token, or to the length limit.

    `tools` are the names of the tools that it was told of.
    """
    ids = list(ids)
    end = next((i for i, token in enumerate(ids) if token in stop_ids), None)
    stopped_by = None if end is None else tokenizer.decode([ids[end]])
    written = ids[:end]
    between = tokenizer.special_tokens.get(ASSISTANT)
    parts = [tokenizer.decode(part) for part in _split(written, between)]
    tokens = len(written) + (end is not None)
    return Answer(parse_parts(parts, stopped_by, tools), stopped_by, tokens, tokenizer.decode(written))


def parse_answer(text: str, stopped_by: str | None, tools: Collection[str] = ()) -> Reply:
    """The reply that a text behind `<|assistant|>` is. Each spelling of that token in it begins another part."""
    return parse_parts(text.split(ASSISTANT), stopped_by, tools)


def parse_parts(parts: Sequence[str], stopped_by: str | None, tools: Collection[str] = ()) -> Reply:
    """The reply of a turn whose parts are known; the stop token belongs to the last."""
    texts, calls = [], []
    for i, part in enumerate(parts):
        call = call_in(part, i < len(parts) - 1 or stopped_by == OBSERVATION, tools)
        if call is not None:
            calls.append(call)
        elif text := part.removeprefix("\n"):
            texts.append(text)
    return Reply("\n".join(texts), tuple(calls))


def reply_of(messages: Sequence[Message]) -> Reply:
    """The assistant's messages of one turn as a reply."""
    texts = [message.content for message in messages if not message.is_tool_call]
    calls = tuple(Call(m.metadata, m.content) for m in messages if m.is_tool_call)
    return Reply("\n".join(texts), calls)


def call_in(part: str, handed_over: bool, tools: Collection[str] = ()) -> Call | None:
    """The call that a part of a turn is; None for text.

    `handed_over`: the part ended as calls do, by `<|observation|>` or another part. Then any name with a JSON object
    behind it is a call, and whatever stands behind the name of one of `tools`. Where it ended otherwise only a known
    name with an object behind it is, so that an answer of a word and some JSON stays text.
    """
    name, line_break, rest = part.removeprefix("\n").partition("\n")
    name, rest = name.rstrip(" "), rest.strip()
    known, is_object = name in tools, rest.startswith("{")
    if not handed_over:
        fits = known and is_object and bool(line_break) and not part.startswith("\n")
    else:
        fits = known or (is_object and _NAME.fullmatch(name) is not None)
    return Call(name, rest) if fits else None


def may_become_call(begun: str, tools: Collection[str] = ()) -> bool:
    """Whether a part that begins with `begun` can still turn out to be a call, so that it is not shown as text yet."""
    name, line_break, rest = begun.removeprefix("\n").partition("\n")
    name, rest = name.rstrip(" "), rest.strip()
    if not line_break:
        return not name or _NAME.fullmatch(name) is not None or any(tool.startswith(name) for tool in tools)
    if name in tools:
        return True
    return _NAME.fullmatch(name) is not None and rest[:1] in ("", "{")


def tool_names(tools: Sequence[dict[str, Any]] | None) -> tuple[str, ...]:
    """What tools can be called by: a function's name, or the type of one of GLM's own tools."""
    found = []
    for tool in tools or ():
        function = tool.get("function") or tool
        name = function.get("name") if isinstance(function, dict) else None
        found.append(name or tool.get("type"))
    return tuple(name for name in found if isinstance(name, str) and name)


def _split(ids: Sequence[int], between: int | None) -> Iterator[list[int]]:
    part: list[int] = []
    for token in ids:
        if token == between:
            yield part
            part = []
        else:
            part.append(token)
    yield part
