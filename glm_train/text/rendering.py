"""Conversations to text: the folder's template, with the strings of the conversation protected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_train.errors import CheckpointError, DataError
from glm_train.text.control import ControlTokens, choose_sentinel, plain_data, remove_sentinel
from glm_train.text.folder import TokenizerFiles
from glm_train.text.template import ChatTemplate, built_in_template
from glm_train.text.template_plain import KEYS

# A string's share in the size of a conversation beside its characters: its place in a list or object.
_VALUE_SIZE = 8
_FOREIGN_OPTIONS = {
    "return_assistant_tokens_mask": "glm_train.text.chat.encode_chat gives the labels of a conversation",
    "sanitize_control_tokens": "spellings of control tokens in messages are always encoded as text",
    "tokenizer_kwargs": "give padding, truncation and max_length by name",
}
_BUILT_IN_NEEDS = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation. Where `sentinel` is set, it stands inside control spellings that are plain
    text."""

    protected: str
    sentinel: str | None = None

    @property
    def text(self) -> str:
        """As the template wrote it, for a reader."""
        return self.protected if self.sentinel is None else remove_sentinel(self.protected, self.sentinel)


class ChatRenderer:
    """The chat templates of one folder, by name (`default`, `tool_use`)."""

    def __init__(self, files: TokenizerFiles, control: ControlTokens) -> None:
        self._files = files
        self._control = control
        self.templates = self._find_templates()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
        continue_final_message: bool = False,
        chat_template: str | None = None,
    ) -> Rendered:
        """The template's text of one conversation, with the control spellings of its strings protected.

        `continue_final_message` ends it inside the last message; `chat_template` is a template's name, or the
        source of one that the folder does not have.
        """
        _refuse_foreign_options(variables, add_generation_prompt and continue_final_message)
        if not messages:
            raise DataError("an empty conversation; give at least one message")
        for name, given in (("messages", messages), ("tools", tools)):
            if given is not None and (isinstance(given, str | Mapping) or not isinstance(given, Sequence)):
                raise DataError(f"{name}: expected a list of JSON objects, found {type(given).__name__}")
        template = self._template_for(tools, chat_template)
        strings: list[str] = []
        chat, flat = _plain_messages(messages, strings)
        tools = plain_data(tools, strings, "tools")
        for i, tool in enumerate(tools or ()):
            if not isinstance(tool, dict):
                raise DataError(f"tools[{i}]: expected a JSON object, found {type(tool).__name__}")
        variables = plain_data(variables, strings, "variables")
        sentinel = None
        if self._control.occur_in(strings):
            sentinel = choose_sentinel([*strings, template.source])
            chat, tools, variables = (self._control.protect(x, sentinel) for x in (chat, tools, variables))
        end = _mark_end(chat, [*strings, template.source, sentinel or ""]) if continue_final_message else None
        protected = template.render(
            chat,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables={**self._files.named_tokens, **variables},
            size=sum(map(len, strings)) + _VALUE_SIZE * len(strings),
            flat=flat,
        )
        return Rendered(protected if end is None else _up_to(end, protected), sentinel)

    def _template_for(self, tools: Any, chosen: str | None) -> ChatTemplate:
        """As transformers chooses: `tool_use` where there are tools and such a template, else the default
        one."""
        if chosen is not None:
            if not isinstance(chosen, str):
                raise TypeError(
                    f"chat_template is a name or a template's source, not {type(chosen).__name__}"
                )
            if chosen not in self.templates and "{" not in chosen:
                names = ", ".join(sorted(self.templates)) or "none"
                raise ValueError(f"no chat template is named {chosen!r} (the folder's: {names})")
            return self.templates.get(chosen) or ChatTemplate(chosen, where="the argument chat_template")
        if tools is not None and "tool_use" in self.templates:
            return self.templates["tool_use"]
        if "default" in self.templates:
            return self.templates["default"]
        if self.templates:
            named = ", ".join(sorted(self.templates))
            raise CheckpointError(
                f"{self._files.source} has chat templates {named}, and none named 'default'"
            )
        raise CheckpointError(
            f"{self._files.source} has no chat template and not the special tokens of a GLM-4 chat model;"
            " add the model's chat_template.jinja to the folder"
        )

    def _find_templates(self) -> dict[str, ChatTemplate]:
        templates = self._files.templates
        if not templates and all(token in self._control.ids for token in _BUILT_IN_NEEDS):
            return {"default": ChatTemplate(built_in_template(), where="built-in GLM-4 template")}
        return {
            name: ChatTemplate(source, where=f"{self._files.source}/{self._files.template_file(name)}")
            for name, source in templates.items()
        }


def _plain_messages(messages: Sequence[Any], strings: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """Copies of the messages without the keys that hold nothing, and whether they are flat: of nothing but role,
    content and metadata, all text. Their strings are appended to `strings`."""
    if {*map(type, messages)} == {dict}:
        keys = [key for message in messages for key in message]
        values = [value for message in messages for value in message.values()]
        if {*map(type, values)} == {str} and {*keys} <= KEYS:
            strings += keys
            strings += values
            return [message.copy() for message in messages], True
    chat = plain_data(messages, strings)
    for i, message in enumerate(chat):
        if not isinstance(message, dict):
            raise DataError(f"messages[{i}]: expected a role and content, found {type(message).__name__}")
    return [{key: value for key, value in message.items() if value is not None} for message in chat], False


def _refuse_foreign_options(variables: Mapping[str, Any], contradiction: bool) -> None:
    """Options of transformers that would reach the template as variables, and so do nothing."""
    for name, cure in _FOREIGN_OPTIONS.items():
        if name in variables:
            raise ValueError(f"{name} is not taken: {cure}")
    if contradiction:
        raise ValueError("add_generation_prompt opens a new message; continue_final_message opens none")


def _mark_end(chat: list[dict[str, Any]], texts: list[str]) -> str:
    """Put a mark, and a blank that shows whether the template trims, behind the last message's content.
    Returns the mark."""
    mark = choose_sentinel(texts)
    if not isinstance(chat[-1].get("content"), str):
        raise DataError("the last message has no text to continue; leave continue_final_message out")
    chat[-1]["content"] += f"{mark} "
    return mark


def _up_to(mark: str, text: str) -> str:
    """`text` before its last `mark`; also without the blanks there where the template took away the mark's
    own."""
    before, found, after = text.rpartition(mark)
    if not found:
        raise DataError(
            "the chat template leaves out the last message, or changes it, so it cannot be continued"
        )
    return before if after.startswith(" ") else before.rstrip()
