"""Chat records in the layouts people have, as one `Conversation` in GLM's roles.

`messages` is the OpenAI layout and GLM's own in one, told apart message by message:

    in the file                                                             as a Message
    {"role": "assistant", "tool_calls": [{"type": "function", "function":   assistant, metadata="f",
        {"name": "f", "arguments": "{}"}}]}                                     content="{}"
    {"role": "assistant", "metadata": "f", "content": "{}"}                 the same
    {"role": "assistant", "content":                                        the same, if a tool result
        '{"name": "f", "arguments": {}}'}                                       follows
    {"role": "tool" or "observation", "content": "..."}                     observation
    {"role": "system", "content": "", "tools": [...]}                       Conversation.tools

A key that would change what is trained is read or refused, never passed over. Of a message's other keys
`IGNORED_KEYS` are passed over and all others refused, so that a misspelt `train` cannot go unseen.
Keys whose value is null count as absent, because table formats fill missing keys with null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from glm_train.errors import DataError, nearest
from glm_train.text.messages import Conversation, Message, check_messages

ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "observation",
    "observation": "observation",
}
READ_KEYS = ("role", "content", "metadata", "tool_calls", "tools", "train", "weight")
IGNORED_KEYS = ("name", "id", "tool_call_id", "index", "timestamp")
_CURES = {
    "function_call": "Write it as `tool_calls`.",
    "functions": "Write them as `tools`.",
    "reasoning_content": "It would not be trained; write it into `content`, or remove it.",
}


def detect_chat_format(value: dict[str, Any]) -> str:
    """The name in `CHAT_FORMATS` of the layout that a record has.

    Raises:
        DataError: no known layout; lists the record's keys.
    """
    if "messages" in value:
        return "messages"
    raise _no_messages(value)


def parse_messages(value: dict[str, Any]) -> Conversation:
    """A record with `messages` (and perhaps `tools`) as a conversation in GLM's roles.

    Raises:
        DataError: without a place; the message is named in the text, as in `messages[2]`.
    """
    listed = value.get("messages")
    if "messages" not in value:
        raise _no_messages(value)
    if not isinstance(listed, list):
        raise DataError(f"`messages` is {_kind(listed)}. Write a list of messages.")
    if not listed:
        raise DataError(
            "`messages` is an empty list. Remove the record, or give it a user and an assistant turn."
        )
    if value.get("functions") is not None:
        raise DataError(f"`functions` is not read. {_CURES['functions']}")
    tools = _read_tools(value.get("tools"), "tools")
    messages: list[Message] = []
    origin: list[int] = []  # for each message, the index in the file of the one that it came from
    for index, entry in enumerate(listed):
        fields = _message_fields(entry, index)
        if "tools" in fields:
            tools = _merge_tools(tools, fields, index)
        made = _read_message(fields, index)
        messages += made
        origin += [index] * len(made)
    messages = _name_plain_calls(messages)
    _check_turns(messages, origin)
    return Conversation(tuple(messages), tools)


def _message_fields(entry: Any, index: int) -> dict[str, Any]:
    """The message's keys that hold something, with the role checked and turned into GLM's."""
    where = f"messages[{index}]"
    if not isinstance(entry, dict):
        raise DataError(f"{where}: the message is {_kind(entry)}. Write an object with `role` and `content`.")
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


def _read_message(fields: dict[str, Any], index: int) -> list[Message]:
    """The messages that one entry stands for: its text, if any, then its tool calls."""
    where = f"messages[{index}]"
    role, metadata, train = fields["role"], fields.get("metadata", ""), _read_train(fields, where)
    if role != "assistant" and (metadata or fields.get("tool_calls")):
        raise DataError(
            f"{where}: it is not an assistant turn, but calls a tool. Give it the role 'assistant'."
        )
    if not isinstance(metadata, str) or "\n" in metadata:
        raise DataError(f"{where}: `metadata` must be the name of a tool, on one line.")
    calls = _read_tool_calls(fields.get("tool_calls"), where)
    if metadata and calls:
        raise DataError(f"{where}: it has both `metadata` and `tool_calls`. Keep one of the two.")
    text = _read_content(fields, where, optional=bool(calls) or "tools" in fields)
    if not text.strip() and role in ("user", "assistant") and not calls:
        raise DataError(f"{where}: it has empty content. Fill it, or remove the record.")
    messages = [Message(role, arguments, metadata=name, train=train) for name, arguments in calls]
    if text.strip() or role == "observation":
        messages.insert(0, Message(role, text, metadata=metadata, train=train))
    return messages


def _read_content(fields: dict[str, Any], where: str, *, optional: bool) -> str:
    content = fields.get("content", "" if optional else None)
    if content is None:
        raise DataError(f"{where}: it has no `content`. Write its text, or remove the message.")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DataError(f"{where}: `content` is {_kind(content)}. Write text.")
    texts = []
    for number, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            found = part.get("type") if isinstance(part, dict) else _kind(part)
            raise DataError(
                f'{where}: `content[{number}]` is not a {{"type": "text"}} part but {found!r}.'
                " Only text can be trained."
            )
        texts.append(part["text"])
    return "".join(texts)


def _read_train(fields: dict[str, Any], where: str) -> bool:
    """`train`, or OpenAI's `weight` 0 or 1 under its own name."""
    train = fields.get("train", True)
    if not isinstance(train, bool):
        raise DataError(f"{where}: `train` is {_kind(train)}. Write true or false.")
    if "weight" not in fields:
        return train
    weight = fields["weight"]
    if isinstance(weight, bool) or weight not in (0, 1):
        raise DataError(f"{where}: `weight` is {weight!r}. Write 0 (not trained) or 1 (trained).")
    if "train" in fields and train != bool(weight):
        raise DataError(f"{where}: `train` and `weight` contradict each other. Keep one of the two.")
    return bool(weight)


def _read_tool_calls(calls: Any, where: str) -> list[tuple[str, str]]:
    """Pairs of tool name and JSON text of the arguments."""
    if calls is None or calls == []:
        return []
    if not isinstance(calls, list):
        raise DataError(f"{where}: `tool_calls` is {_kind(calls)}. Write a list of calls.")
    pairs = []
    for number, call in enumerate(calls):
        here = f"{where}: `tool_calls[{number}]`"
        if not isinstance(call, dict) or (call.get("type") or "function") != "function":
            raise DataError(f'{here} is not a call {{"type": "function", "function": {{...}}}}. Write it so.')
        function = call["function"] if isinstance(call.get("function"), dict) else {}
        name = function.get("name")
        if not isinstance(name, str) or not name.strip() or "\n" in name:
            raise DataError(f"{here} has no usable `function.name`. Write the tool's name, on one line.")
        arguments = _arguments_text(function.get("arguments"))
        if arguments is None:
            raise DataError(
                f"{here}: the arguments of {name!r} are not a JSON object."
                " Write an object, or its text; {} for none."
            )
        pairs.append((name, arguments))
    return pairs


def _arguments_text(arguments: Any) -> str | None:
    """The JSON text of a call's arguments: an object serialised, a text kept to the letter; else None."""
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    return arguments if isinstance(_json_or_none(arguments), dict) else None


def _read_tools(tools: Any, where: str) -> tuple[dict[str, Any], ...] | None:
    """A list of tool descriptions, or the JSON text of one."""
    listed = _json_or_none(tools) if isinstance(tools, str) and tools.strip() else tools
    if tools is None or tools == "" or listed == []:
        return None
    if not isinstance(listed, list):
        raise DataError(f"`{where}` is not a list of tools. Write a list, or the JSON text of one.")
    for number, tool in enumerate(listed):
        named = tool.get("function") or tool if isinstance(tool, dict) else None
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind is not None and not isinstance(kind, str):
            raise DataError(f"`{where}[{number}].type` is {_kind(kind)}. Write a text, such as 'function'.")
        native = kind is not None and kind != "function"
        if not native and not (
            isinstance(named, dict) and isinstance(named.get("name"), str) and named["name"]
        ):
            raise DataError(
                f"`{where}[{number}]` has no tool name. Write"
                ' {"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}.'
            )
    return tuple(listed)


def _merge_tools(
    tools: tuple[dict[str, Any], ...] | None, fields: dict[str, Any], index: int
) -> tuple[dict[str, Any], ...] | None:
    if fields["role"] != "system":
        raise DataError(
            f"messages[{index}]: it has `tools`. Write them in the system message or beside `messages`."
        )
    inside = _read_tools(fields["tools"], f"messages[{index}].tools")
    if tools is not None and inside is not None and tools != inside:
        raise DataError(
            f"messages[{index}]: its `tools` differ from those named before. Keep one of the two."
        )
    return tools if inside is None else inside


def _name_plain_calls(messages: list[Message]) -> list[Message]:
    """Calls written as plain content, `{"name": ..., "arguments": {...}}`, in the form that is rendered.

    Only where a tool result follows: elsewhere such a text may be the answer itself.
    """
    for i, (message, following) in enumerate(pairwise(messages)):
        if message.role != "assistant" or message.metadata or following.role != "observation":
            continue
        call = _json_or_none(message.content)
        if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
            continue
        arguments = _arguments_text(call["arguments"])
        if isinstance(call["name"], str) and call["name"].strip() and "\n" not in call["name"] and arguments:
            messages[i] = replace(message, metadata=call["name"], content=arguments)
    return messages


def _check_turns(messages: list[Message], origin: list[int]) -> None:
    """The rules of `text.messages`, with each message named by its index in the file."""
    if not any(message.role == "assistant" for message in messages):
        raise DataError(
            "there is no assistant turn, so nothing can be trained. Add one, or remove the record."
        )
    try:
        check_messages(messages)
    except DataError as error:
        named = re.sub(r"^messages\[(\d+)\]", lambda m: f"messages[{origin[int(m[1])]}]", str(error))
        raise DataError(named) from None


def _no_messages(value: dict[str, Any]) -> DataError:
    keys = ", ".join(repr(key) for key in list(value)[:8]) or "none"
    hint = next((hint for key in value if (hint := nearest(key, ["messages"]))), "")
    return DataError(f"the record has no `messages`. Its keys: {keys}.{hint}")


def _json_or_none(text: Any) -> Any:
    """The value of a JSON text; None for whatever is not one."""
    if not isinstance(text, str):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    names = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), "null")


CHAT_FORMATS: dict[str, Callable[[dict[str, Any]], Conversation]] = {"messages": parse_messages}
