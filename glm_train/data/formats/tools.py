"""Tool calls and tool descriptions, in all their spellings.

A call becomes the tool's name and the JSON text of its arguments, the two lines that GLM writes for it.
"""

from __future__ import annotations

import json
from typing import Any

from glm_train.data.formats.values import json_in, json_or_none, kind
from glm_train.errors import DataError

Tools = tuple[dict[str, Any], ...] | None
Call = tuple[str, str]  # the tool's name, the arguments


def read_tool_calls(calls: Any, where: str) -> list[tuple[Call, str]]:
    """OpenAI's `tool_calls`: each call, with its id or an empty text."""
    if calls is None or calls == []:
        return []
    if not isinstance(calls, list):
        raise DataError(f"{where}: `tool_calls` is {kind(calls)}. Write a list of calls.")
    found = []
    for number, call in enumerate(calls):
        here = f"{where}: `tool_calls[{number}]`"
        if not isinstance(call, dict) or (call.get("type") or "function") != "function":
            raise DataError(f'{here} is not a call {{"type": "function", "function": {{...}}}}. Write it so.')
        function = call["function"] if isinstance(call.get("function"), dict) else {}
        found.append((_read_call(function, here, "function.name"), str(call.get("id") or "")))
    return found


def read_function_call(value: Any, where: str) -> list[Call]:
    """A call `{"name": ..., "arguments": ...}`, a list of several, or the JSON text of either."""
    read = json_in(value, f"{where}: the function call") if isinstance(value, str) else value
    calls = read if isinstance(read, list) else [read]
    if not calls or not all(isinstance(call, dict) for call in calls):
        raise DataError(
            f'{where}: the function call is {kind(read)}. Write {{"name": ..., "arguments": {{...}}}}.'
        )
    return [_read_call(call, f"{where}: the function call", "name") for call in calls]


def plain_call(content: str) -> Call | None:
    """The call that a text is, `{"name": ..., "arguments": ...}` and nothing else; None for any other text."""
    if not content.lstrip().startswith("{"):
        return None
    call = json_or_none(content)
    if not isinstance(call, dict) or set(call) != {"name", "arguments"} or not _is_name(call["name"]):
        return None
    arguments = _arguments_text(call["arguments"])
    return None if arguments is None else (call["name"], arguments)


def _read_call(call: dict[str, Any], where: str, key: str) -> Call:
    name: Any = call.get("name")
    if not _is_name(name):
        raise DataError(f"{where} has no usable `{key}`. Write the tool's name, on one line.")
    arguments = _arguments_text(call.get("arguments"))
    if arguments is None:
        raise DataError(
            f"{where}: the arguments of {name!r} are not a JSON object."
            " Write an object, or its text; {} for none."
        )
    return name, arguments


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip()) and "\n" not in name


def _arguments_text(arguments: Any) -> str | None:
    """The JSON text of a call's arguments: an object serialised, a text kept to the letter; else None."""
    if isinstance(arguments, dict):
        return json.dumps(arguments, ensure_ascii=False)
    return arguments if isinstance(json_or_none(arguments), dict) else None


def read_tools(tools: Any, where: str) -> Tools:
    """A list of tool descriptions, or the JSON text of one. None where there are no tools."""
    cure = "Write a list of tools, or the JSON text of one."
    listed = json_in(tools, f"`{where}`", cure) if isinstance(tools, str) and tools.strip() else tools
    if listed is None or listed == [] or (isinstance(listed, str) and not listed.strip()):
        return None
    if not isinstance(listed, list):
        raise DataError(f"`{where}` is {kind(listed)}, not a list of tools. {cure}")
    return tuple(_read_tool(tool, f"{where}[{number}]") for number, tool in enumerate(listed))


def merge_tools(tools: Tools, inside: Tools, where: str) -> Tools:
    """The tools of a record that may name them in two places."""
    if tools is not None and inside is not None and tools != inside:
        raise DataError(f"{where}: its `tools` differ from those named before. Keep one of the two.")
    return tools if inside is None else inside


def tool_names(tools: Tools) -> set[str]:
    """What the tools can be called by: a function's name, or the type of one of GLM's own tools."""
    return {name for tool in tools or () if (name := _function(tool).get("name") or tool.get("type"))}


def _read_tool(tool: Any, where: str) -> dict[str, Any]:
    named = _function(tool)
    type_of = tool.get("type") if isinstance(tool, dict) else None
    if type_of is not None and not isinstance(type_of, str):
        raise DataError(f"`{where}.type` is {kind(type_of)}. Write a text, such as 'function'.")
    native = type_of is not None and type_of != "function"
    if not native and not (isinstance(named.get("name"), str) and named["name"]):
        raise DataError(
            f"`{where}` has no tool name. Write"
            ' {"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}.'
        )
    return _without_empty_properties(tool)


def _function(tool: Any) -> dict[str, Any]:
    function = (tool.get("function") or tool) if isinstance(tool, dict) else {}
    return function if isinstance(function, dict) else {}


def _without_empty_properties(tool: dict[str, Any]) -> dict[str, Any]:
    """Without parameters that are null: files written from a table have those of all other tools."""
    parameters = _function(tool).get("parameters")
    if not isinstance(parameters, dict):
        return tool
    properties = parameters.get("properties")
    if not isinstance(properties, dict) or None not in properties.values():
        return tool
    kept = {name: value for name, value in properties.items() if value is not None}
    function = {**_function(tool), "parameters": {**parameters, "properties": kept}}
    return {**tool, "function": function} if tool.get("function") else function
