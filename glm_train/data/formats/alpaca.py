"""Alpaca: `instruction` and `output`, perhaps with `input`, `system`, `history` and `tools`.

{"system": S, "history": [[q1, a1]], "instruction": I, "input": X, "output": O}
becomes   system S, user q1, assistant a1, user "I\\nX", assistant O
"""

from __future__ import annotations

from typing import Any

from glm_train.data.formats.tools import read_tools
from glm_train.data.formats.turns import Turn, assemble, with_system
from glm_train.data.formats.values import kind, list_of, text_of
from glm_train.errors import DataError
from glm_train.text.messages import Conversation, Message


def parse_alpaca(value: dict[str, Any]) -> Conversation:
    """A record with `instruction` and `output` as a conversation of one exchange, or more with `history`.

    Raises:
        DataError: without a place in the file; it names the key, as in `history[1]`.
    """
    task, data = text_of(value, "instruction", optional=True), text_of(value, "input", optional=True)
    asked = "\n".join(part for part in (task, data) if part.strip())
    if not asked:
        raise DataError("`instruction` is empty. Fill it, or remove the record.")
    turns = [
        *_read_history(value.get("history")),
        Turn(Message("user", asked), "instruction"),
        Turn(Message("assistant", text_of(value, "output")), "output"),
    ]
    turns = with_system(turns, text_of(value, "system", optional=True))
    return assemble(turns, read_tools(value.get("tools"), "tools"))


def _read_history(history: Any) -> list[Turn]:
    if history is None or history == [] or (isinstance(history, str) and not history.strip()):
        return []
    turns = []
    for number, pair in enumerate(list_of(history, "`history`", "pairs [question, answer]")):
        where = f"history[{number}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(f"{where}: it is {kind(pair)}. Write a pair [question, answer].")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            if not isinstance(text, str) or not text.strip():
                found = "empty" if isinstance(text, str) else kind(text)
                raise DataError(f"{where}: one of its two texts is {found}. Write [question, answer].")
            turns.append(Turn(Message(role, text), where))
    return turns
