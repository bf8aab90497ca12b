"""The layouts that chat records come in, and how one is recognised: by its keys.

A layout is one function `value -> Conversation` in `formats/`. Keys whose value is null count as absent,
because table formats fill missing keys with null.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from glm_train.data.formats.alpaca import parse_alpaca
from glm_train.data.formats.messages import parse_messages
from glm_train.data.formats.prompt_completion import parse_prompt_completion
from glm_train.data.formats.sharegpt import parse_sharegpt
from glm_train.errors import DataError, nearest
from glm_train.text.messages import Conversation

_NEAR = 0.85  # of difflib's ratio: `tool` for `tools`, but not `prompt_id` for `prompt`


@dataclass(frozen=True)
class Layout:
    """How a layout is read, the keys without which a record has not got it, and those that it may have."""

    parse: Callable[[dict[str, Any]], Conversation]
    needs: tuple[str, ...]
    may_have: tuple[str, ...] = ("system", "tools")


CHAT_FORMATS = {
    "messages": Layout(parse_messages, ("messages",)),
    "sharegpt": Layout(parse_sharegpt, ("conversations",)),
    "alpaca": Layout(parse_alpaca, ("instruction", "output"), ("input", "history", "system", "tools")),
    "prompt_completion": Layout(parse_prompt_completion, ("prompt", "completion")),
}


def parse_chat(value: dict[str, Any], format: str = "auto") -> Conversation:
    """The conversation that a record holds.

    Args:
        value: the record.
        format: a name in `CHAT_FORMATS`, or "auto" to recognise the record's.

    Raises:
        DataError: without a place in the file; no layout fits, or several do, or the record breaks its rules.
    """
    name = detect_chat_format(value) if format == "auto" else format
    layout = CHAT_FORMATS[name]
    _refuse_unread(value, layout)
    for key in layout.needs:
        if value.get(key) is None:
            raise _no_layout(value, f"`{key}`", layout.needs)
    return layout.parse(value)


def detect_chat_format(value: dict[str, Any]) -> str:
    """The name in `CHAT_FORMATS` of the layout that a record has.

    Raises:
        DataError: none, with the record's keys; or more than one, with their names.
    """
    fitting = [
        name
        for name, layout in CHAT_FORMATS.items()
        if all(value.get(key) is not None for key in layout.needs)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        keys = ", ".join(f"{name} (it has {_keys(CHAT_FORMATS[name].needs)})" for name in fitting)
        raise DataError(
            f"the record may be read in more than one way: {keys}. Set data.format to one of them."
        )
    needed = " or ".join(_keys(layout.needs) for layout in CHAT_FORMATS.values())
    raise _no_layout(value, needed, [key for layout in CHAT_FORMATS.values() for key in layout.needs])


def _keys(names: tuple[str, ...]) -> str:
    return " with ".join(f"`{name}`" for name in names)


def _no_layout(value: dict[str, Any], missing: str, known: list[str] | tuple[str, ...]) -> DataError:
    empty = [key for key in known if key in value and value[key] is None]
    if empty:
        return DataError(f"`{empty[0]}` is null. Fill it, or remove the record.")
    keys = ", ".join(repr(key) for key in list(value)[:8]) or "none"
    hint = next((hint for key in value if (hint := nearest(key, [k for k in known if k not in value]))), "")
    cure = hint or " Rename the record's keys."
    return DataError(f"the record has no {missing}. Its keys: {keys}.{cure}")


def _refuse_unread(value: dict[str, Any], layout: Layout) -> None:
    """Keys that mean something for what is trained, and would be passed over."""
    if value.get("functions") is not None:
        raise DataError("`functions` is not read. Write them as `tools`.")
    if isinstance(value.get("train"), bool):
        raise DataError(
            f"`train` is read in messages, not beside them. Write it in those of `{layout.needs[0]}`."
        )
    for key in value:
        if (meant := _misspelt(key, layout.may_have)) and value.get(meant) is None:
            raise DataError(f"the key {key!r} is not read. Did you mean {meant!r}? Else remove it.")


@lru_cache(maxsize=1024)
def _misspelt(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=_NEAR)
    return near[0] if near and near[0] != key else ""
