"""What a folder's chat template can express, found out by rendering small conversations, each once.

Nothing here knows a template by name: a template is what it writes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from glm_train.errors import CheckpointError, DataError
from glm_train.text.rendering import Rendered
from glm_train.text.tokenizer import GlmTokenizer

ASSISTANT = "<|assistant|>"
CURE = "use the template of a GLM-4 model that has it (chat_template.jinja), or change the record"

ToolPlace = Literal["argument", "system message", "nowhere"]
_Messages = list[dict[str, Any]]

# Words that no template writes of itself.
_SAID, _TOOL, _ABOUT, _PARAMETER = "probe-said", "probe_tool", "probe-about", "probe_parameter"
_FUNCTION = {
    "name": _TOOL,
    "description": _ABOUT,
    "parameters": {"type": "object", "properties": {_PARAMETER: {"type": "string"}}},
}
_USER = {"role": "user", "content": "probe-asked"}
_CALL = {"role": "assistant", "metadata": _TOOL, "content": "{}"}
_RESULT = {"role": "observation", "content": "probe-result"}


class TemplateProbe:
    """The abilities of one tokenizer's chat template; each is found out when it is first asked for."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        self.tokenizer = tokenizer
        self._suffixes: dict[bool, str] = {}
        self._fixed: dict[bool, bool] = {}

    @property
    def name(self) -> str:
        """The template, for messages."""
        template = self.tokenizer.chat_template
        return "the chat template" if template is None else f"the chat template ({template.where})"

    def writes(self, what: str) -> bool:
        """Whether the template writes `what` anywhere: a role, or `tool call` for the names of called tools."""
        return what in self._written

    @cached_property
    def _written(self) -> frozenset[str]:
        said = {"content": _SAID}
        chats: dict[str, tuple[_Messages, str]] = {
            "system": ([{"role": "system", **said}, _USER], _SAID),
            "user": ([{"role": "user", **said}], "<|user|>"),
            "assistant": ([_USER, {"role": "assistant", **said}], ASSISTANT),
            "tool call": ([_USER, _CALL], _TOOL),
            "observation": ([_USER, _CALL, _RESULT], "<|observation|>"),
        }
        return frozenset(what for what, (chat, sign) in chats.items() if sign in self._text(chat))

    @cached_property
    def tool_place(self) -> ToolPlace:
        """Where the template looks for tools: in its `tools` argument (GLM-4-0414), or in a system message
        (glm-4-9b-chat)."""
        places: tuple[ToolPlace, ...] = ("argument", "system message")
        return next((place for place in places if _TOOL in self._tool_text(place)), "nowhere")

    @cached_property
    def untold_of_tools(self) -> list[str]:
        """What the template leaves out of a tool that it shows: `description`, `parameters`."""
        text = self._tool_text(self.tool_place)
        signs = {"description": _ABOUT, "parameters": _PARAMETER}
        return [part for part, sign in signs.items() if sign not in text]

    @cached_property
    def shows_bare_functions(self) -> bool:
        """Whether a tool may also be written without its wrapper, `{"type": "function", "function": ...}`."""
        return _TOOL in self._tool_text(self.tool_place, wrapped=False)

    def generation_suffix(self, with_tools: bool) -> str:
        """What the generation prompt writes after `<|assistant|>`: nothing for GLM-4-0414, a line break for
        GLM-Edge, a line break and `<think>` for GLM-Z1.

        Conversations with tools are asked about apart, because a folder may have a template for them.
        """
        if with_tools not in self._suffixes:
            text = self._render([_USER], with_tools, add_generation_prompt=True).protected
            _, header, suffix = text.rpartition(ASSISTANT)
            if not header:
                raise CheckpointError(
                    f"{self.name} writes no {ASSISTANT} for add_generation_prompt; use the template of a GLM-4"
                    " chat model"
                )
            self._suffixes[with_tools] = suffix
        return self._suffixes[with_tools]

    def history_is_fixed(self, with_tools: bool) -> bool:
        """Whether what stands before an answer stays as it is when the conversation goes on.

        GLM-4's templates keep it, GLM-Z1's too (reasoning is gone from every earlier answer alike). One that
        keeps the reasoning since the last question changes it with the next question.
        """
        if with_tools not in self._fixed:
            self._fixed[with_tools] = self._history_is_fixed(with_tools)
        return self._fixed[with_tools]

    def _history_is_fixed(self, with_tools: bool) -> bool:
        try:
            return self._compare_histories(with_tools)
        except DataError:
            return True  # nothing is known of a template that refuses the probe; each turn is checked anyway

    def _compare_histories(self, with_tools: bool) -> bool:
        def answer(number: int) -> dict[str, Any]:
            return {"role": "assistant", "content": f"<think>thought {number}</think>answer {number}"}

        chat = [_USER, answer(1), _USER]
        if self.writes("tool call") and self.writes("observation"):
            chat += [{**_CALL, "content": "<think>thought 2</think>{}"}, _RESULT]
        chat += [answer(3), _USER, answer(4)]
        whole = self._render(chat, with_tools).protected
        for i, message in enumerate(chat):
            if message["role"] == "assistant":
                prompt = self._render(chat[:i], with_tools, add_generation_prompt=True).protected
                if not whole.startswith(prompt.rpartition(ASSISTANT)[0]):
                    return False
        return True

    def place_tools(
        self, messages: _Messages, tools: list[dict[str, Any]]
    ) -> tuple[_Messages, list[dict[str, Any]] | None]:
        """The messages and the `tools` argument with which this template shows `tools`. In a system message
        they come before its content, as with the argument."""
        if self.tool_place == "argument":
            return messages, tools
        if messages and messages[0]["role"] == "system":
            return [{**messages[0], "tools": tools}, *messages[1:]], None
        return [{"role": "system", "content": "", "tools": tools}, *messages], None

    def _tool_text(self, place: ToolPlace, *, wrapped: bool = True) -> str:
        tool = {"type": "function", "function": _FUNCTION} if wrapped else _FUNCTION
        if place == "argument":
            return self._text([_USER], tools=[tool])
        return self._text([{"role": "system", "content": "", "tools": [tool]}, _USER])

    def _render(self, chat: _Messages, with_tools: bool, **arguments: Any) -> Rendered:
        tools = None
        if with_tools:
            chat, tools = self.place_tools(chat, [{"type": "function", "function": _FUNCTION}])
        return self.tokenizer.render_chat(chat, tools=tools, **arguments)

    def _text(self, chat: _Messages, tools: list[dict[str, Any]] | None = None) -> str:
        """The text of a probe; empty where the template refuses it."""
        try:
            return self.tokenizer.render_chat(chat, tools=tools).protected
        except DataError:
            return ""


def short(text: str) -> str:
    """`text` in quotes for a message, its beginning where it is long."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
