"""Records of sequence classification: a text, perhaps a second one, and what is to be said of them.

A label is read without knowing the other ones, so it is not a class yet:

    "good"  " good "      'good'            a name, without the white space around it
    3   3.0               3                 a number that is whole: the id of a name, or a name by itself
    true                  'True'            as Python, pandas and a CSV file of theirs write it
    3.5                   3.5               a number
    ["a", "b"]            ['a', 'b']        several labels, or several numbers
    "a|b"                 ['a', 'b']        with the separator `|`
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glm_train.errors import DataError

PROBLEMS = ("auto", "single_label", "multi_label", "regression")
Tag = str | int | float
Label = Tag | list[Tag]

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,4})?")
_SHOWN = 60  # characters of a user's text in a message
_NEAR = 0.7  # of difflib's ratio: `texts` for `text`, but not `target`


@dataclass(frozen=True)
class SequenceKeys:
    """Which keys of a record, or columns of a table, hold what.

    Attributes:
        pair: of the second text; None for `text_pair`, where a record has it.
        separator: between several labels in one text; None where there is none.
    """

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    separator: str | None = None


DEFAULT_KEYS = SequenceKeys()


def parse_sequence(
    value: Mapping[str, Any], keys: SequenceKeys = DEFAULT_KEYS, problem: str = "auto"
) -> tuple[str, str | None, Label]:
    """The text of a record, its second text or None, and its label.

    Keys match with other case and with white space around them, where only one does.

    Raises:
        DataError: without a place; a key is missing, a text is none, or a label is none of `problem`.
    """
    text, pair = parse_texts(value, keys)
    key = _find(value, keys.label, "label")
    return text, pair, parse_label(value[key], keys.separator, problem)


def parse_texts(value: Mapping[str, Any], keys: SequenceKeys = DEFAULT_KEYS) -> tuple[str, str | None]:
    """The text of a record and its second one, for which no label is needed. See `parse_sequence`."""
    key = _find(value, keys.text, "text")
    text = _text(value[key], "text")
    if not text.strip():
        raise DataError("the text is empty. Write one, or take the record out.")
    if keys.pair is not None:
        other = _find(value, keys.pair, "pair")
    elif (found := _match(value, "text_pair")) is not None:
        other = found
    else:
        return text, None
    pair = None if value[other] is None else _text(value[other], "second text")
    return text, pair or None


def parse_label(raw: Any, separator: str | None = None, problem: str = "auto") -> Label:
    """One label of a record, or the list of them. See the top of this file."""
    if isinstance(raw, str) and problem != "single_label":
        raw = _listed(raw, separator)
    if not isinstance(raw, list):
        return _tag(raw)
    if problem == "single_label":
        raise DataError("the label is a list, and task.problem=single_label wants one label. Write one name.")
    tags = [_tag(item) for item in raw]
    if problem == "regression" or any(isinstance(tag, float) for tag in tags):
        return tags
    if len(set(tags)) < len(tags) and any(isinstance(tag, int) for tag in tags):
        raise DataError(
            "the label lists a number twice. A list holds the labels that apply, not a 0 or 1 for each of them:"
            " write their names or their ids; or set task.problem=regression to predict the numbers."
        )
    return list(dict.fromkeys(tags))


def is_number(text: str) -> bool:
    """Whether a text is a number in digits: `3`, `-0.5`, `1e-3`; not `nan`, `1_000` or `1,5`."""
    return _NUMBER.fullmatch(text) is not None


def _listed(text: str, separator: str | None) -> str | list[Any]:
    """The labels in a text that holds several of them."""
    if separator is not None:
        return [part for part in text.split(separator) if part.strip()] if text.strip() else []
    inner = text.strip()
    if not (inner.startswith("[") and inner.endswith("]")):
        return text
    try:
        found = json.loads(inner)
    except (ValueError, RecursionError):
        if inner.startswith(("['", '["')):
            raise DataError(
                f"the label looks like a list, and is not one in JSON: {inner[:_SHOWN]!r}."
                ' Write ["a", "b"], or a|b with data.label_separator="|".'
            ) from None
        return text
    return found


def _tag(raw: Any) -> Tag:
    if isinstance(raw, str):
        tag = raw.strip()
        if not tag:
            raise DataError("the label is empty. Write it, or take the record out.")
        return tag
    if isinstance(raw, bool):
        return str(raw)
    if isinstance(raw, int):
        return raw
    if isinstance(raw, float):
        if not math.isfinite(raw):
            raise DataError(f"the label is {raw}, which is no number. Write one, or take the record out.")
        return int(raw) if raw.is_integer() else raw
    if raw is None:
        raise DataError("the label is null. Write it, or take the record out.")
    raise DataError(
        f"the label is {_kind(raw)}. A label is a name, an id, a number, or a list of these. Write one of them."
    )


def _text(raw: Any, role: str) -> str:
    if isinstance(raw, str):
        return raw
    raise DataError(f"the {role} is {_kind(raw)}. Write a text between double quotes.")


def _kind(raw: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return "null" if raw is None else names.get(type(raw), f"of the type {type(raw).__name__}")


def _find(value: Mapping[str, Any], key: str, part: str) -> str:
    """The key of the record that `key` means."""
    if key in value:
        return key
    found = _match(value, key)
    if found is not None:
        return found
    have = ", ".join(repr(name[:_SHOWN]) for name in value) or "none"
    near = difflib.get_close_matches(key.casefold(), [name.casefold() for name in value], n=1, cutoff=_NEAR)
    hint = "".join(f" Did you mean {name!r}?" for name in value if name.casefold() in near)
    raise DataError(
        f"there is no {part} under {key!r}; the keys are: {have}.{hint} Name the right one with data.{part}_key."
        " (The first line of a table names its columns; a null in a table counts as absent.)"
    )


def _match(value: Mapping[str, Any], key: str) -> str | None:
    if key in value:
        return key
    wanted = key.strip().casefold()
    alike = [name for name in value if name.strip().casefold() == wanted]
    if len(alike) > 1:
        raise DataError(f"{alike[0]!r} and {alike[1]!r} could both be {key!r}. Rename one of the two.")
    return alike[0] if alike else None
