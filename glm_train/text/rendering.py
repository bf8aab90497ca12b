"""Conversations to text: the folder's template, with the strings of the conversation protected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glm_train.errors import CheckpointError, DataError
from glm_train.text.control import ControlTokens, choose_sentinel, plain_data, remove_sentinel
from glm_train.text.folder import TokenizerFiles
from glm_train.text.template import MAX_OUTPUT_CHARS, ChatTemplate, built_in_template

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
    ) -> Rendered:
        """The template's text of one conversation, with the control spellings of its strings protected."""
        if not messages:
            raise DataError("an empty conversation; give at least one message")
        template = self._template_for(tools)
        strings: list[str] = []
        chat = plain_data(messages, strings)
        for i, message in enumerate(chat):
            if not isinstance(message, dict):
                raise DataError(f"messages[{i}]: expected a role and content, found {type(message).__name__}")
        chat = [{key: value for key, value in message.items() if value is not None} for message in chat]
        tools = plain_data(tools, strings, "tools")
        variables = plain_data(variables, strings, "variables")
        sentinel = None
        if self._control.occur_in(strings):
            sentinel = choose_sentinel([*strings, template.source])
            chat, tools, variables = (self._control.protect(x, sentinel) for x in (chat, tools, variables))
        protected = template.render(
            chat,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            variables={**self._files.named_tokens, **variables},
            max_chars=max(MAX_OUTPUT_CHARS, 4 * sum(map(len, strings))),
        )
        return Rendered(protected, sentinel)

    def _template_for(self, tools: Any) -> ChatTemplate:
        """As transformers chooses: `tool_use` where there are tools and such a template, else the default
        one."""
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
