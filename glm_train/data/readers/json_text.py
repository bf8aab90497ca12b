"""JSON, read strictly: what a silent reading would train on as something else than the file says is refused."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from glm_train.errors import DataError

MAX_DEPTH = 100  # of objects and lists inside one another; the tools of a chat need about ten


def describe(error: json.JSONDecodeError) -> str:
    """What is wrong, and the column in its line."""
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def decode_utf8(raw: bytes) -> str:
    """The text of some bytes; a DataError without a place where they are none."""
    if b"\0" in raw:
        raise DataError("it holds a NUL byte. The file is damaged, or not UTF-8 text; save it as UTF-8.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte 0x{raw[error.start]:02x} at column {error.start + 1} is not UTF-8. Save the file as UTF-8."
        ) from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        json.JSONDecodeError: it is not JSON.
        DataError: it is JSON that would be misread: repeated keys, NaN and Infinity, halves of surrogate
            pairs, nesting below `MAX_DEPTH`, integers that no program reads.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise DataError(f"it is not usable JSON: {error}. Write the number as a string.") from None
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_depth(value)
    if "\\u" in text:
        _refuse_lone_surrogates(value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"the key {repeated!r} occurs twice in one object. Keep one of the two.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is not JSON. Write a number, a string or null.")


def _refuse_depth(value: Any) -> None:
    """Level by level, so that no nesting is too deep for the check itself."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> DataError:
    return DataError(f"the JSON is nested too deeply, more than {MAX_DEPTH} levels. Flatten the record.")


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise DataError(
            f"the escape \\u{code:04x} is half of a surrogate pair and stands for no character."
            " Remove it, or write the whole pair."
        ) from None
