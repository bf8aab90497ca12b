"""Chat templates: Hugging Face's Jinja dialect, rendered in a sandbox with limits on size, memory and time.

The dialect is the one of transformers and the serving stacks (trimmed blocks, `tojson` that leaves HTML and
Chinese alone, `raise_exception`, `strftime_now`, `{% break %}`, `{% generation %}`), so a template renders
here to the same text. Source: Hugging Face documentation, "Chat templates".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as loop_controls
from jinja2.sandbox import SecurityError

from glm_train.errors import CheckpointError, DataError
from glm_train.text.sandbox import Sandbox
from glm_train.text.template_guards import MAX_WIDTH, guarded, refuse_wide
from glm_train.text.template_limits import MAX_SECONDS, LimitError, Meter, current, metered
from glm_train.text.template_plain import PlainTemplate, plain_template

MAX_SOURCE_BYTES = 64 * 1024
MAX_OUTPUT_CHARS = 1_000_000
_MOST_OF_A_REASON = 500  # characters


def built_in_template() -> str:
    """The source of the GLM-4-0414 format, for folders that bring no template of their own."""
    return (files("glm_train.text") / "glm4_chat_template.jinja").read_text(encoding="utf-8")


class ChatTemplate:
    """One chat template. `where` names its file in messages. The source is compiled at the first use."""

    def __init__(self, source: str, *, where: str = "chat_template.jinja") -> None:
        self.source = source
        self.where = where

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        variables: Mapping[str, Any] | None = None,
        size: int = 0,
        flat: bool = False,
    ) -> str:
        """The text of a conversation; `variables` are further names that the template may read (`eos_token`,
        ...). `size` is the conversation's in characters: the limits grow with it. `flat` says that the messages
        hold nothing but role, content and metadata, all text (see `template_plain.py`).

        Raises `CheckpointError` for a template that does not compile, and `DataError` for one that refuses
        the conversation, fails on it, or exceeds a limit (`template_limits.py`).
        """
        compiled = self._compiled
        names = {"documents": None, **(variables or {}), "messages": messages, "tools": tools}
        names["add_generation_prompt"] = add_generation_prompt
        if flat and self._plain is not None and (text := self._plain.render(names, size)) is not None:
            return text
        refusal: DataError
        try:
            with metered(Meter(size, MAX_SECONDS)):
                return _written(compiled, names, max_chars=max(MAX_OUTPUT_CHARS, 4 * size))
        except Exception as error:  # what foreign code can raise has no end
            refusal = self._refusal(error)
        # Out here the template's values, which its traceback holds, are gone.
        raise refusal

    @cached_property
    def _compiled(self) -> jinja2.Template:
        size = len(self.source.encode("utf-8", errors="replace"))
        if size > MAX_SOURCE_BYTES:
            raise CheckpointError(
                f"{self.where}: a chat template of {size:,} bytes; the most is {MAX_SOURCE_BYTES:,}"
            )
        try:
            return _environment().from_string(self.source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"{self.where}:{error.lineno}: not a valid Jinja template: {error.message}"
            ) from None
        except (RecursionError, MemoryError, SyntaxError):
            raise CheckpointError(f"{self.where}: the template is nested too deeply") from None
        except (ValueError, TypeError, AttributeError) as error:  # a number of thousands of digits
            raise CheckpointError(f"{self.where}: not a valid Jinja template: {error}") from None

    @cached_property
    def _plain(self) -> PlainTemplate | None:
        extensions: list[Any] = [_GenerationBlock, loop_controls]
        environment = jinja2.Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=extensions,
            optimized=False,  # folding constants takes the third power of the depth
        )
        environment.globals.clear()
        return plain_template(environment, self.source)

    def _refusal(self, error: Exception) -> DataError:
        line = _template_line(error)
        place = self.where if line is None else f"{self.where}:{line}"
        reason = str(error) or type(error).__name__
        if len(reason) > _MOST_OF_A_REASON:
            reason = reason[:_MOST_OF_A_REASON] + "..."
        if isinstance(error, LimitError | SecurityError):
            reason += "; take the model's own chat template"
            reason += ", or shorten the conversation" if isinstance(error, LimitError) else ""
        return DataError(f"the chat template ({place}) cannot render this conversation: {reason}")


def _written(compiled: jinja2.Template, names: dict[str, Any], max_chars: int) -> str:
    parts: list[str] = []
    size = 0
    for part in compiled.generate(names):
        size += len(part)
        if size > max_chars:
            raise LimitError(f"wrote more than {max_chars:,} characters")
        parts.append(part)
    return "".join(parts)


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for other trainers; here it renders its
    body."""

    tags = {"generation"}  # noqa: RUF012 - the attribute that jinja2 reads

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(
            line
        )


def _environment() -> jinja2.Environment:
    return Sandbox(
        [_GenerationBlock, loop_controls],
        filters={"tojson": guarded(_to_json, _check_json)},
        names={"raise_exception": _raise_exception, "strftime_now": _strftime_now},
    )


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _check_json(
    meter: Meter,
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> None:
    refuse_wide(indent)
    values, chars, depth = meter.measure(value)
    width = len(indent) if isinstance(indent, str) else min(indent or 0, MAX_WIDTH)
    between = sum(map(len, separators)) if separators else 4
    meter.check(chars + values * (30 + between + width * depth))


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(current().text(message))


def _strftime_now(form: str) -> str:
    if len(form) > MAX_WIDTH:
        raise SecurityError(f"a date format of {len(form):,} characters is too large")
    return datetime.now().strftime(form)


def _template_line(error: Exception) -> int | None:
    """The template's line where `error` rose: jinja2 names the frames of a template `<template>`."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
