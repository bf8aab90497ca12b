"""Values of a record, named in plain words, and JSON inside of text."""

from __future__ import annotations

import json
from typing import Any

from glm_train.data.readers.json_text import describe, parse_json
from glm_train.errors import DataError


def kind(value: Any) -> str:
    """What a value is, for a message: `a list`, `null`."""
    names = {
        bool: "a boolean",
        dict: "an object",
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), f"a value of the type {type(value).__name__}")


def json_in(text: str, where: str, cure: str = "Write JSON.") -> Any:
    """The value of a JSON text; a DataError with this cure where it is none."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        python = text.lstrip().startswith(("[{'", "{'"))
        cure = "It is written by Python's str(); write it with json.dumps." if python else cure
        raise DataError(
            f"{where} is a text, and not JSON: {describe(error)} of {text[:40]!r}. {cure}"
        ) from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def json_or_none(text: Any) -> Any:
    """The value of a JSON text; None for whatever is not one."""
    if not isinstance(text, str):
        return None
    try:
        return parse_json(text)
    except (json.JSONDecodeError, DataError):
        return None


def list_of(value: Any, where: str, of: str) -> list[Any]:
    """A list that holds something, or the JSON text of one, as tables have it."""
    cure = f"Write a list of {of}."
    listed = json_in(value, where, cure) if isinstance(value, str) and value.strip() else value
    if not isinstance(listed, list):
        raise DataError(f"{where} is {kind(listed)}. {cure}")
    if not listed:
        raise DataError(f"{where} is an empty list. Remove the record, or fill the list with {of}.")
    return listed


def text_of(value: dict[str, Any], key: str, *, optional: bool = False) -> str:
    """The text under a key; an empty one where an optional key holds nothing."""
    text = value.get(key)
    if text is None and optional:
        return ""
    if not isinstance(text, str):
        raise DataError(f"`{key}` is {kind(text)}. Write text.")
    if not text.strip() and not optional:
        raise DataError(f"`{key}` is empty. Fill it, or remove the record.")
    return text
