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
    try:
        said = [roles[entry[who]] for entry in entries]
        texts = [entry[what] for entry in entries]
        begins = {text.lstrip()[:1] for text in texts}
        # Empty texts are for the reader to judge, and what may be a call, written as text.
        if {*map(len, entries)} != {2} or "" in begins or "{" in begins or "assistant" not in said:
            return None
        messages = tuple(map(Message, said, texts))
        check_messages(messages)
    except (KeyError, TypeError, AttributeError, DataError):
        return None
    return Conversation(messages)
