"""ShareGPT: `conversations`, each `{"from": ..., "value": ...}`, with `system` and `tools` beside them.

    from                      becomes
    human, user               user
    gpt, assistant            assistant
    function_call             assistant, metadata = the tool's name; a list of calls becomes several
    observation, tool         observation
    system                    system

Entries that have `role` and `content` instead are read as `messages` are.
"""

from __future__ import annotations

from typing import Any

from glm_train.data.formats.messages import read_messages, read_train
from glm_train.data.formats.plain import plain_conversation
from glm_train.data.formats.tools import read_function_call, read_tools
from glm_train.data.formats.turns import Turn, assemble, with_system
from glm_train.data.formats.values import json_in, kind, list_of, text_of
from glm_train.errors import DataError, nearest
from glm_train.text.messages import Conversation, Message

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "observation",
    "tool": "observation",
    "system": "system",
}
PLAIN_ROLES = {
    name: role for name, role in ROLES.items() if name != "function_call" and role != "observation"
}
READ_KEYS = ("from", "value", "train", "weight")


def parse_sharegpt(value: dict[str, Any]) -> Conversation:
    """A record with `conversations` as a conversation in GLM's roles.

    Raises:
        DataError: without a place in the file; the message is named, as in `conversations[2]`.
    """
    entries = list_of(value.get("conversations"), "`conversations`", "messages")
    if value.get("tools") is None and value.get("system") is None:
        plain = plain_conversation(entries, "from", "value", PLAIN_ROLES)
        if plain is not None:
            return plain
    tools = read_tools(value.get("tools"), "tools")
    if isinstance(entries[0], dict) and entries[0].get("role") is not None:
        turns, tools = read_messages(entries, "conversations", tools)
    else:
        turns = [
            turn
            for index, entry in enumerate(entries)
            for turn in _read_entry(entry, f"conversations[{index}]")
        ]
    return assemble(with_system(turns, text_of(value, "system", optional=True)), tools)


def _read_entry(entry: Any, where: str) -> list[Turn]:
    if isinstance(entry, str) and entry.lstrip().startswith("{"):
        entry = json_in(entry, where)
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the message is {kind(entry)}. Write an object with `from` and `value`.")
    fields = {key: value for key, value in entry.items() if value is not None}
    for key in fields:
        if key not in READ_KEYS:
            known = ", ".join(READ_KEYS)
            hint = nearest(key, READ_KEYS)
            raise DataError(f"{where}: it has the key {key!r}, which is not read. Known keys: {known}.{hint}")
    sender, value = fields.get("from"), fields.get("value")
    if not isinstance(sender, str) or sender not in ROLES:
        hint = nearest(sender.lower(), ROLES) if isinstance(sender, str) else ""
        raise DataError(f"{where}: it is from {sender!r}. Use one of: {', '.join(ROLES)}.{hint}")
    train = read_train(fields, where)
    if value is None:
        raise DataError(f"{where}: it has no `value`. Write its text, or remove the message.")
    if sender == "function_call":
        calls = read_function_call(value, where)
        return [Turn(Message("assistant", args, metadata=name, train=train), where) for name, args in calls]
    if not isinstance(value, str):
        raise DataError(f"{where}: `value` is {kind(value)}. Write text.")
    role = ROLES[sender]
    if not value.strip() and role != "observation":
        if role == "system":
            return []
        raise DataError(f"{where}: `value` is empty. Fill it, or remove the message.")
    return [Turn(Message(role, value, train=train), where)]
