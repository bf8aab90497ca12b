"""Messages that say who and what, and nothing else: nearly all of them, read at once and several times sooner.

    {"role": "user", "content": "Hi"}        {"from": "human", "value": "Hi"}

Everything else, and everything that may be wrong, is left to the reader of the layout, which says what and where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glm_train.errors import DataError
from glm_train.text.messages import Conversation, Message, check_messages


def plain_conversation(
    entries: Sequence[Any], who: str, what: str, roles: Mapping[str, str]
) -> Conversation | None:
    """The conversation of messages with the keys `who` and `what` alone; None where a rule is needed to read them.

    `roles` are the plain roles by the layout's names for them: of system, user and assistant.
    """
    messages = []
    try:
        for entry in entries:
            role, text = roles[entry[who]], entry[what]
            if len(entry) != 2 or not text or text.isspace():
                return None
            if role == "assistant" and text.lstrip()[0] == "{":  # it may be a call, written as text
                return None
            messages.append(Message(role, text))
        check_messages(messages)
    except (KeyError, TypeError, AttributeError, DataError):
        return None
    return Conversation(tuple(messages)) if any(m.role == "assistant" for m in messages) else None
