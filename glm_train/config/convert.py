"""One value against one annotation of the schema. Strict: what is accepted is what the annotation says."""

from __future__ import annotations

import math
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from glm_train.config.faults import either
from glm_train.config.limits import Home, Limit, Refusal
from glm_train.config.paths import expand_home
from glm_train.errors import ConfigError, nearest

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_LONGEST = 300  # characters of a value in a message
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


class Mismatch(Exception):
    """The value is not what the annotation says. The message completes `key: ...`."""


class WrongKind(Mismatch):
    """The value is of another type, so another member of a union may still take it."""


def convert(value: Any, hint: Any, written: str | None = None) -> Any:
    """The value in the annotation's type.

    Args:
        value: a plain value from YAML or the command line.
        hint: the annotation; `Annotated` with `Limit`, `Refusal` or `Home` included.
        written: the letters of an unquoted value on the command line, where `run_name=0042` means a text.

    Raises:
        Mismatch: wrong type, not a choice, or out of its limits.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(value, hint, written)
    if origin in (Union, types.UnionType):
        return _member(value, arguments, hint, written)
    if origin is Literal:
        return _choice(value, arguments)
    if origin is tuple:
        return _sequence(value, arguments, hint, written)
    return _scalar(value, hint, written)


def _annotated(value: Any, hint: Any, written: str | None) -> Any:
    inner, *extras = get_args(hint)
    for extra in extras:
        if isinstance(extra, Refusal) and str(value) in extra.reasons:
            raise Mismatch(f"{value} is refused: {extra.reasons[str(value)]}")
    try:
        converted = convert(value, inner, written)
    except WrongKind:
        raise WrongKind(_expected(hint, value)) from None
    for extra in extras:
        if isinstance(extra, Home):
            converted = _expanded(converted)
        if isinstance(extra, Limit) and not extra.holds(converted):
            raise Mismatch(f"must be {extra.wanted}, got {_cut(repr(value))}")
    return converted


def _expanded(text: str) -> str:
    try:
        return str(expand_home(text)) if text.startswith("~") else text
    except ConfigError as error:
        raise Mismatch(str(error).rstrip(".")) from None


def _member(value: Any, members: tuple[Any, ...], hint: Any, written: str | None) -> Any:
    if value is None and type(None) in members:
        return None
    for member in members:
        if member is not type(None):
            try:
                return convert(value, member, written)
            except WrongKind:
                continue
    raise WrongKind(_expected(hint, value))


def _choice(value: Any, names: tuple[str, ...]) -> str:
    if value in names and isinstance(value, str):
        return value
    hint = nearest(value, names) if isinstance(value, str) else ""
    raise Mismatch(f"expected {either(names)}, got {_cut(repr(value))}.{hint}".rstrip("."))


def _sequence(value: Any, arguments: tuple[Any, ...], hint: Any, written: str | None) -> tuple[Any, ...]:
    """A list; where any length will do, one text stands for a list of one."""
    any_length = arguments[-1] is Ellipsis
    if any_length and (isinstance(value, str) or written is not None):
        value = [value]
    if not isinstance(value, (list, tuple)) or (not any_length and len(value) != len(arguments)):
        raise WrongKind(_expected(hint, value))
    members = [arguments[0]] * len(value) if any_length else arguments
    return tuple(convert(item, member, written) for item, member in zip(value, members, strict=True))


def _scalar(value: Any, kind: type, written: str | None) -> Any:
    if kind is str and written is not None and isinstance(value, (bool, int, float)):
        return written
    if kind is float and isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)  # YAML 1.1 reads 1e-4, without a point, as a text
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise WrongKind(_expected(kind, value))
    if isinstance(value, float) and not math.isfinite(value):
        raise Mismatch(f"must be a finite number, got {value}")
    return value


def _expected(hint: Any, value: Any) -> str:
    names = _names(hint)
    unquoted = isinstance(value, (int, float)) and not {"a text", "a path"}.isdisjoint(names)
    return f"expected {either(names)}, got {_shown(value)}{' (put it in quotes)' if unquoted else ''}"


def _names(hint: Any) -> list[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ["a path"] if any(isinstance(extra, Home) for extra in arguments) else _names(arguments[0])
    if origin in (Union, types.UnionType):
        return [name for member in arguments for name in _names(member)]
    if origin is Literal:
        return list(arguments)
    if origin is tuple:
        (item,) = {name for member in arguments if member is not Ellipsis for name in _names(member)}
        plural = item.partition(" ")[2] + "s"
        return (
            [item, f"a list of {plural}"]
            if arguments[-1] is Ellipsis
            else [f"a list of {len(arguments)} {plural}"]
        )
    return [_NAMES[hint]]


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"a mapping with the keys {', '.join(map(str, value))}" if value else "an empty mapping"
    return f"the text {_cut(repr(value))}" if isinstance(value, str) else _cut(repr(value))


def _cut(text: str) -> str:
    """What fills a screen, shortened."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
