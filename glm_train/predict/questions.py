"""The question of a chat record: all that stands before its last answer, which the model never sees.

Records may end with the message to be answered, which those for training may not. Such a record is read with a
stand-in for the answer, in the record's own layout, so that every layout keeps the one reader that it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glm_train.data.chat_formats import CHAT_FORMATS, parse_chat
from glm_train.data.readers.record import Fault, Item
from glm_train.data.records import read_items
from glm_train.errors import DataError
from glm_train.predict.batches import read_texts
from glm_train.text.messages import Conversation, Message

_ANSWERS = ("assistant", "gpt", "function_call")  # what the layouts call the one who answers
_STAND_IN = "."
_TEXTS = ("", ".txt", ".text", ".md")


@dataclass(frozen=True)
class Question:
    """What the model is to answer, and the answer that the record holds, if any."""

    conversation: Conversation
    reference: tuple[Message, ...] = ()


def read_question(value: dict[str, Any], format: str = "auto") -> Question:
    """The question of a record in any chat layout. `DataError`, without a place, where there is none."""
    completed = _with_answer(value, format)
    conversation = parse_chat(value if completed is None else completed, format)
    if completed is not None:
        return Question(replace(conversation, messages=conversation.messages[:-1]))
    return split_answer(conversation)


def split_answer(conversation: Conversation) -> Question:
    """The conversation up to its last answer, and that answer: text, calls or both. What follows it is left out."""
    messages = list(conversation.messages)
    end = len(messages)
    while end and messages[end - 1].role != "assistant":
        end -= 1
    begin = end
    while begin and messages[begin - 1].role == "assistant":
        begin -= 1
    return Question(replace(conversation, messages=tuple(messages[:begin])), tuple(messages[begin:end]))


def question_items(path: Path) -> Iterator[Item]:
    """The records of a data file; of a text (by its name) the lines, as records with a `text`.

    Raises `DataError` at once where the file cannot be opened.
    """
    return read_items(path) if _holds_records(path) else read_items(path, read_texts)


def question_in(path: Path, value: dict[str, Any], format: str = "auto") -> Question:
    """The question of a record that `question_items(path)` gave. Raises `DataError` without a place."""
    if _holds_records(path):
        return read_question(value, format)
    return Question(Conversation((Message("user", value["text"]),), None))


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of a file. Raises `DataError`, with its place, for a file or a record that cannot be read."""
    found = False
    for item in question_items(path):
        try:
            if isinstance(item, Fault):
                raise item.error
            yield question_in(path, item.value)
        except DataError as error:
            raise error.at(item.path, item.line) from None
        found = True
    if not found:
        raise DataError(f"{path}: it asks nothing. Write a chat or a prompt on each line.")


def _holds_records(path: Path) -> bool:
    return path.suffix.lower() not in _TEXTS


def _with_answer(value: dict[str, Any], format: str) -> dict[str, Any] | None:
    """The record with a stand-in for its missing answer; None where it has an answer, or its reader must complain."""
    layout = _layout(value, format)
    if layout in ("messages", "sharegpt"):
        (key,) = CHAT_FORMATS[layout].needs
        return _with_last_message(value, key)
    if layout in ("alpaca", "prompt_completion"):
        asked, answered = CHAT_FORMATS[layout].needs
        found = value.get(answered)
        empty = not found.strip() if isinstance(found, str) else found in (None, [])
        return {**value, answered: _STAND_IN} if empty and value.get(asked) is not None else None
    return None


def _with_last_message(value: dict[str, Any], key: str) -> dict[str, Any] | None:
    entries = _parsed(value.get(key))
    last = _parsed(entries[-1]) if isinstance(entries, list) and entries else None
    if not isinstance(last, dict):
        return None
    named = "role" if last.get("role") is not None else "from"
    if last.get(named) in _ANSWERS:
        return None
    if last.get(named) == "system":
        raise DataError("the last message is the system's: nobody asks anything. Add a user message.")
    assistant = {"role": "assistant", "content": _STAND_IN}
    return {**value, key: [*entries, assistant if named == "role" else {"from": "gpt", "value": _STAND_IN}]}


def _layout(value: dict[str, Any], format: str) -> str | None:
    """The layout of a record that need not have an answer; None where that is not sure."""
    if format != "auto":
        return format
    whole = [
        name
        for name, layout in CHAT_FORMATS.items()
        if all(value.get(key) is not None for key in layout.needs)
    ]
    if whole:
        return whole[0] if len(whole) == 1 else None
    return next(
        (n for n in ("alpaca", "prompt_completion") if value.get(CHAT_FORMATS[n].needs[0]) is not None), None
    )


def _parsed(value: Any) -> Any:
    """Messages in tables may be JSON text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
