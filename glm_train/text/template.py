"""Chat templates: Hugging Face's Jinja dialect, rendered in a sandbox with limits on size and time.

The environment is the one that transformers and the serving stacks use (trimmed blocks, `tojson` that leaves
HTML and Chinese alone, `raise_exception`, `strftime_now`, `{% break %}`, `{% generation %}`), so a template
renders here to the same text. Source: Hugging Face documentation, "Chat templates".
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.resources import files
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as loop_controls
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from glm_train.errors import CheckpointError, DataError

MAX_SOURCE_BYTES = 64 * 1024
MAX_OUTPUT_CHARS = 1_000_000
MAX_SECONDS = 10.0
MAX_WIDTH = 999
_PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs")
# A field with a width of four digits or more, or one that is an argument: `%9999d`, `%*d`, `{:>9999}`, `{:{}}`.
_WIDE_FIELD = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:\*|[0-9]{4})|\{[^{}]*:[^{}]*(?:\{|[0-9]{4})")

_TICK = "glm_train_tick"


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
        max_chars: int = MAX_OUTPUT_CHARS,
    ) -> str:
        """The text of a conversation; `variables` are further names that the template may read (`eos_token`,
        ...).

        Raises `CheckpointError` for a template that does not compile, and `DataError` for one that refuses
        the conversation, fails on it, or exceeds `max_chars` characters or `MAX_SECONDS` seconds.
        """
        names = dict(variables or {})
        names |= {"messages": messages, "tools": tools, "documents": None}
        names |= {"add_generation_prompt": add_generation_prompt, _TICK: _deadline(MAX_SECONDS)}
        parts: list[str] = []
        size = 0
        try:
            for part in self._compiled.generate(names):
                size += len(part)
                if size > max_chars:
                    raise _LimitError(f"wrote more than {max_chars:,} characters")
                parts.append(part)
        except (jinja2.TemplateError, _LimitError, ArithmeticError, LookupError) as error:
            raise self._refusal(error) from None
        except (TypeError, ValueError, AttributeError, RecursionError, MemoryError) as error:
            raise self._refusal(error) from None
        return "".join(parts)

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

    def _refusal(self, error: Exception) -> DataError:
        line = _template_line(error)
        place = self.where if line is None else f"{self.where}:{line}"
        reason = str(error) or type(error).__name__
        return DataError(f"the chat template ({place}) cannot render this conversation: {reason}")


class _LimitError(Exception):
    """A template ran past one of the limits."""


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a clock that ticks in every loop and macro, and no way to build huge values by `*`,
    `**`, `%` or padding."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%":
            if isinstance(left, str):
                _refuse_wide(left)
            return super().call_binop(context, operator, left, right)
        if operator == "**" and abs(right) > 64:
            raise SecurityError(f"the exponent {right} is too large")
        for sequence, times in ((left, right), (right, left)):
            if hasattr(sequence, "__len__") and len(sequence) * times > MAX_OUTPUT_CHARS:
                raise SecurityError(f"a sequence repeated {times} times is too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps `format`
        text = getattr(method, "__self__", None)
        if isinstance(text, str) and method.__name__ in ("format", "format_map"):
            _refuse_wide(text)
        elif isinstance(text, str) and method.__name__ in _PADDING:
            _refuse_wide("", *args, *kwargs.values())
        return super().call(context, obj, *args, **kwargs)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        blocks: Iterator[Any] = tree.find_all((nodes.For, nodes.Macro))
        for block in blocks:
            tick = nodes.Call(nodes.Name(_TICK, "load"), [], [], None, None)
            statement = nodes.ExprStmt(tick).set_lineno(block.lineno).set_environment(self)
            block.body.insert(0, statement)
        return tree


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
    # Not optimised: constant expressions would be computed while the template is compiled, without limits.
    environment = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, loop_controls],
        optimized=False,
    )
    for name in ("center", "format", "indent"):
        environment.filters[name] = _narrow(environment.filters[name])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    # The class itself would offer `dict.update`, which changes the caller's messages past the sandbox.
    environment.globals["dict"] = lambda *pairs, **named: dict(*pairs, **named)
    return environment


def _narrow(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2 that pads text, with a limit on how far."""

    def limited(value: Any, *args: Any, **named: Any) -> Any:
        if filter_.__name__ == "do_format":
            _refuse_wide(value)
        else:
            _refuse_wide("", *args, *named.values())
        return filter_(value, *args, **named)

    return limited


def _refuse_wide(form: Any, *widths: Any) -> None:
    """Raise where a number, or a field of the format string `form`, pads to more than `MAX_WIDTH` characters."""
    wide = [width for width in widths if isinstance(width, int) and width > MAX_WIDTH]
    if wide or (isinstance(form, str) and _WIDE_FIELD.search(form)):
        raise SecurityError(f"text padded to more than {MAX_WIDTH} characters is too large")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    _refuse_wide("", indent)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _deadline(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def tick() -> None:
        if time.monotonic() > end:
            raise _LimitError(f"ran longer than {seconds:g} seconds")

    return tick


def _template_line(error: Exception) -> int | None:
    """The template's line where `error` rose: jinja2 names the frames of a template `<template>`."""
    line = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
