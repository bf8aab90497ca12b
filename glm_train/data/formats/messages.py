"""`messages`: the OpenAI layout and GLM's own in one, told apart message by message.

    in the file                                                             as a Message
    {"role": "assistant", "tool_calls": [{"type": "function", "function":   assistant, metadata="f",
        {"name": "f", "arguments": "{}"}}]}                                     content="{}"
    {"role": "assistant", "metadata": "f", "content": "{}"}                 the same
    {"role": "assistant", "content":                                        the same, if `f` is one of the
        '{"name": "f", "arguments": {}}'}                                       tools, or a result follows
    {"role": "tool" or "observation", "content": "..."}                     observation
    {"role": "system", "content": "", "tools": [...]}                       Conversation.tools

A key that would change what is trained is read or refused, never passed over. Of a message's other keys
`IGNORED_KEYS` are passed over and all others refused, so that a misspelt `train` cannot go unseen.
Keys whose value is null count as absent, because table formats fill missing keys with null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glm_train.data.formats.plain import plain_conversation
from glm_train.data.formats.tools import Tools, merge_tools, read_tool_calls, read_tools
from glm_train.data.formats.turns import Turn, assemble, with_system
from glm_train.data.formats.values import json_in, kind, list_of, text_of
from glm_train.errors import DataError, nearest
from glm_train.text.messages import Conversation, Message

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "observation",
    "observation": "observation",
}
PLAIN_ROLES = {role: role for role in ("system", "user", "assistant")}
READ_KEYS = ("role", "content", "metadata", "tool_calls", "tools", "train", "weight", "tool_call_id")
IGNORED_KEYS = ("name", "id", "index", "timestamp")
_CURES = {
    "function_call": "Write it as `tool_calls`.",
    "functions": "Write them as `tools`.",
    "reasoning_content": "It would not be trained; write it into `content`, as <think>...</think> before the answer.",
}


def parse_messages(value: dict[str, Any]) -> Conversation:
    """A record with `messages`, and perhaps `tools` and `system`, as a conversation in GLM's roles.

    Raises:
        DataError: without a place; the message is named in the text, as in `messages[2]`.
    """
    entries = list_of(value.get("messages"), "`messages`", "messages")
    if value.get("tools") is None and value.get("system") is None:
        plain = plain_conversation(entries, "role", "content", PLAIN_ROLES)
        if plain is not None:
            return plain
    turns, tools = read_messages(entries, "messages", read_tools(value.get("tools"), "tools"))
    return assemble(with_system(turns, text_of(value, "system", optional=True)), tools)


def read_messages(entries: Sequence[Any], name: str, tools: Tools = None) -> tuple[list[Turn], Tools]:
    """The turns of a list of messages, each with its place `name[i]`, and the tools, here or in one of them."""
    turns: list[Turn] = []
    for index, entry in enumerate(entries):
        where = f"{name}[{index}]"
        fields = _message_fields(entry, where)
        if "tools" in fields:
            if fields["role"] != "system":
                raise DataError(
                    f"{where}: it has `tools`. Write them in the system message or beside `{name}`."
                )
            tools = merge_tools(tools, read_tools(fields["tools"], f"{where}.tools"), where)
        turns += _read_message(fields, where)
    return turns, tools


def read_train(fields: dict[str, Any], where: str) -> bool:
    """`train`, or OpenAI's `weight` 0 or 1 under its own name."""
    train = fields.get("train", True)
    if not isinstance(train, bool):
        raise DataError(f"{where}: `train` is {kind(train)}. Write true or false.")
    if "weight" not in fields:
        return train
    weight = fields["weight"]
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"{where}: `weight` is {weight!r}. Write 0 (not trained) or 1 (trained).")
    if "train" in fields and train != bool(weight):
        raise DataError(f"{where}: `train` and `weight` contradict each other. Keep one of the two.")
    return bool(weight)


def _message_fields(entry: Any, where: str) -> dict[str, Any]:
    """The message's keys that hold something, with the role checked and turned into GLM's."""
    if isinstance(entry, str) and entry.lstrip().startswith("{"):  # a table of messages as JSON text
        entry = json_in(entry, where)
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the message is {kind(entry)}. Write an object with `role` and `content`.")
    fields = {key: value for key, value in entry.items() if value is not None and key not in IGNORED_KEYS}
    for key in fields:
        if key not in READ_KEYS:
            cure = _CURES.get(key, f"Known keys: {', '.join(READ_KEYS)}.{nearest(key, READ_KEYS)}")
            raise DataError(f"{where}: it has the key {key!r}, which is not read. {cure}")
    if "role" not in fields:
        raise DataError(f"{where}: it has no `role`. Use one of: {', '.join(ROLES)}.")
    role = fields["role"]
    if not isinstance(role, str) or role not in ROLES:
        hint = nearest(role.lower(), ROLES) if isinstance(role, str) else ""
        hint = {"human": " Did you mean 'user'?", "gpt": " Did you mean 'assistant'?"}.get(str(role), hint)
        raise DataError(f"{where}: it has the role {role!r}. Use one of: {', '.join(ROLES)}.{hint}")
    return {**fields, "role": ROLES[role]}


def _read_message(fields: dict[str, Any], where: str) -> list[Turn]:
    """The turns that one entry stands for: its text, if any, then its tool calls."""
    role, metadata, train = fields["role"], fields.get("metadata", ""), read_train(fields, where)
    if role != "assistant" and (metadata or fields.get("tool_calls")):
        raise DataError(
            f"{where}: it is not an assistant turn, but calls a tool. Give it the role 'assistant'."
        )
    if not isinstance(metadata, str) or "\n" in metadata:
        raise DataError(f"{where}: `metadata` must be the name of a tool, on one line.")
    calls = read_tool_calls(fields.get("tool_calls"), where)
    if metadata and calls:
        raise DataError(f"{where}: it has both `metadata` and `tool_calls`. Keep one of the two.")
    text = _read_content(fields, where, optional=bool(calls) or "tools" in fields)
    if not text.strip() and role in ("user", "assistant") and not calls:
        raise DataError(f"{where}: it has empty content. Fill it, or remove the message.")
    turns = [
        Turn(Message(role, arguments, metadata=name, train=train), where, id_)
        for (name, arguments), id_ in calls
    ]
    if text.strip() or role == "observation":
        answers = str(fields.get("tool_call_id", ""))
        turns.insert(0, Turn(Message(role, text, metadata=metadata, train=train), where, answers))
    return turns


def _read_content(fields: dict[str, Any], where: str, *, optional: bool) -> str:
    content = fields.get("content", "" if optional else None)
    if content is None:
        raise DataError(f"{where}: it has no `content`. Write its text, or remove the message.")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{where}: `content` is {kind(content)}. Write text.")
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            found = part.get("type") if isinstance(part, dict) else kind(part)
            raise DataError(
                f'{where}: `content[{number}]` is not a {{"type": "text"}} part but {found!r}.'
                " Only text can be trained."
            )
        texts.append(part["text"])
    return "".join(texts)
