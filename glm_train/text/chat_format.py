"""How one folder's template writes chats: where tools go, what a generation prompt ends with, and whether a
rendered conversation holds everything that was said in it.

Nothing here knows a template by name. What must be known is found out by rendering small conversations once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

from glm_train.errors import CheckpointError, DataError
from glm_train.text.control import remove_sentinel
from glm_train.text.messages import ROLES, Conversation, Message
from glm_train.text.rendering import Rendered
from glm_train.text.tokenizer import GlmTokenizer

_ROLE_TOKEN = re.compile(r"<\|(" + "|".join(ROLES) + r")\|>")
_PROBE_TOOL = "probe_of_the_template"
_CURE = "use the template of a GLM-4 model that has it (chat_template.jinja), or change the record"


class ChatFormat:
    """The chat format of one tokenizer."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        self.tokenizer = tokenizer
        self.role_ids: dict[str, int] = {}
        for role in ROLES:
            id_ = tokenizer.special_tokens.get(f"<|{role}|>")
            if id_ is None:
                raise CheckpointError(f"{tokenizer!r} has no <|{role}|> token: it is no GLM-4 chat tokenizer")
            self.role_ids[role] = id_
        self.roles_by_id = {id_: role for role, id_ in self.role_ids.items()}

    def encode(
        self, conversation: Conversation, *, add_generation_prompt: bool = False
    ) -> tuple[list[int], list[int]]:
        """Token ids, and where each message after the system message starts (the index of its role token).

        Raises `DataError` where the template left out or merged a message, a tool's name, or the tools.
        """
        messages = [_as_mapping(message) for message in conversation.messages]
        tools = list(conversation.tools or ())
        if tools:
            messages, argument = self._place_tools(messages, tools)
        else:
            argument = None
        rendered = self.tokenizer.render_chat(
            messages, tools=argument, add_generation_prompt=add_generation_prompt
        )
        turns = _check_turns(conversation.messages, rendered, add_generation_prompt)
        ids = self.tokenizer.encode_rendered(rendered)
        system = self.role_ids["system"]
        starts = [i for i, id_ in enumerate(ids) if id_ in self.roles_by_id and id_ != system]
        if len(starts) != turns:
            raise CheckpointError(
                f"{self.tokenizer!r} does not encode role tokens as the single tokens they are"
            )
        if tools:
            _check_tools(tools, rendered)
        return ids, starts[:-1] if add_generation_prompt else starts

    @cached_property
    def generation_suffix(self) -> list[int]:
        """The tokens after `<|assistant|>` in a generation prompt: none for GLM-4-0414, a line break for
        GLM-Edge, a line break and `<think>` for GLM-Z1. The prompt gives them, so an answer is not trained to
        write them."""
        ids = self.tokenizer.encode_rendered(self._probe(add_generation_prompt=True))
        assistant = self.role_ids["assistant"]
        if assistant not in ids:
            raise CheckpointError(
                f"the chat template of {self.tokenizer!r} writes no <|assistant|> for add_generation_prompt;"
                " use the template of a GLM-4 chat model"
            )
        return ids[len(ids) - ids[::-1].index(assistant) :]

    @cached_property
    def tools_in(self) -> Literal["argument", "system message", "nowhere"]:
        """Where the template looks for tools: in its `tools` argument (GLM-4-0414), or in a system message
        (glm-4-9b-chat)."""
        tool = {"type": "function", "function": {"name": _PROBE_TOOL, "description": "", "parameters": {}}}
        for place, system, argument in (
            ("argument", {}, [tool]),
            ("system message", {"tools": [tool]}, None),
        ):
            try:
                rendered = self._probe(system, tools=argument)
            except DataError:
                continue
            if _PROBE_TOOL in rendered.text:
                return place  # type: ignore[return-value]
        return "nowhere"

    def _probe(self, system: dict[str, Any] | None = None, **arguments: Any) -> Rendered:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": "", **system})
        return self.tokenizer.render_chat(messages, **arguments)

    def _place_tools(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """The messages and the `tools` argument with which this template shows the tools."""
        if self.tools_in == "argument":
            for i, tool in enumerate(tools):
                if not _tool_name(tool):
                    raise DataError(
                        f"tools[{i}]: {_short(str(tool))} has no name, and this chat template shows tools under"
                        " their names: name the tool, or use a template that knows it (as glm-4-9b-chat's)"
                    )
            return messages, tools
        if self.tools_in == "nowhere":
            raise DataError(f"the conversation has tools, and the chat template ignores them; {_CURE}")
        if messages and messages[0]["role"] == "system":
            return [{**messages[0], "tools": tools}, *messages[1:]], None
        return [{"role": "system", "content": "", "tools": tools}, *messages], None


@lru_cache(maxsize=8)
def chat_format(tokenizer: GlmTokenizer) -> ChatFormat:
    """The format of `tokenizer`, found out once."""
    return ChatFormat(tokenizer)


def _as_mapping(message: Message) -> dict[str, Any]:
    """The message as templates expect it."""
    plain = {"role": message.role, "content": message.content}
    return plain | {"metadata": message.metadata} if message.metadata else plain


def _check_turns(messages: Sequence[Message], rendered: Rendered, add_generation_prompt: bool) -> int:
    """Check that each message stands in the text, under its own role token. Returns the number of turns
    there."""
    # Role tokens in the protected text are the template's own: [before, role, body, role, body, ...].
    parts = _ROLE_TOKEN.split(rendered.protected)
    turns = [(role, body) for role, body in zip(parts[1::2], parts[2::2], strict=True) if role != "system"]
    said = [(i, message) for i, message in enumerate(messages) if message.role != "system"]
    expected = [message.role for _, message in said] + ["assistant"] * add_generation_prompt
    written = [role for role, _ in turns]
    if written != expected:
        raise DataError(
            f"the chat template left out, merged or moved a message: expected the turns {_list(expected)},"
            f" the rendered text has {_list(written)}; {_CURE}"
        )
    for (i, message), (_, body) in zip(said, turns, strict=False):
        _check_said(
            i, message, body if rendered.sentinel is None else remove_sentinel(body, rendered.sentinel)
        )
    if messages[0].role == "system":
        _check_said(0, messages[0], _head(rendered))
    return len(turns)


def _check_said(i: int, message: Message, text: str) -> None:
    for name, value in (("content", message.content), ("metadata", message.metadata)):
        if value.strip() not in text:
            raise DataError(
                f"messages[{i}]: the chat template changed or left out the {name} {_short(value)}; {_CURE}"
            )


def _check_tools(tools: Sequence[dict[str, Any]], rendered: Rendered) -> None:
    """Each tool's name must stand before the first user turn, where a tool call cannot be taken for it."""
    head = _head(rendered)
    for i, tool in enumerate(tools):
        name = _tool_name(tool)
        if name is not None and name not in head:
            raise DataError(f"tools[{i}]: the chat template left out the tool {name!r}; {_CURE}")


def _tool_name(tool: dict[str, Any]) -> str | None:
    """A function's name; None for a native tool of GLM without one, such as {"type": "python"}."""
    function = tool.get("function") or tool
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name.strip() else None


def _head(rendered: Rendered) -> str:
    """The text before the first user turn: prefix, tools, system message."""
    head = rendered.protected.partition("<|user|>")[0]
    return head if rendered.sentinel is None else remove_sentinel(head, rendered.sentinel)


def _list(roles: Sequence[str]) -> str:
    if not roles:
        return "none"
    return " ".join(roles) if len(roles) <= 12 else f"{' '.join(roles[:12])} ... ({len(roles)} in all)"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
