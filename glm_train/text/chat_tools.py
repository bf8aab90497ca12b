"""Tools in the form in which a folder's chat template shows them.

GLM-4-0414      the `tools` argument; wrapped or bare functions, which all have a name
glm-4-9b-chat   a `tools` list in a system message; wrapped functions, and GLM's own tools ({"type": "python"})
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glm_train.errors import DataError
from glm_train.text.chat_probe import CURE, TemplateProbe, short


def place_tools(
    probe: TemplateProbe, messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """The messages and the `tools` argument with which the template shows the tools. `DataError` where it does
    not show all that a tool says."""
    if probe.tool_place == "nowhere":
        raise DataError(f"the conversation has tools, and {probe.name} ignores them; {CURE}")
    if probe.untold_of_tools:
        untold = " and ".join(probe.untold_of_tools)
        raise DataError(f"{probe.name} shows tools without their {untold}; {CURE}")
    placed = []
    for i, tool in enumerate(tools):
        if probe.tool_place == "argument" and not _name(tool):
            raise DataError(
                f"tools[{i}]: {short(str(tool))} has no name, and {probe.name} shows tools under their names:"
                " name the tool, or use a template that knows it (as glm-4-9b-chat's)"
            )
        wraps = _is_bare(tool) and not probe.shows_bare_functions
        placed.append({"type": "function", "function": tool} if wraps else tool)
    return probe.place_tools(messages, placed)


def check_tools(probe: TemplateProbe, tools: Sequence[dict[str, Any]], head: str) -> None:
    """Raise `DataError` unless each tool's name stands in `head`, the text before the first turn, where a tool
    call cannot be taken for it."""
    for i, tool in enumerate(tools):
        name = _name(tool)
        if name is not None and name not in head:
            raise DataError(f"tools[{i}]: {probe.name} left out the tool {short(name)}; {CURE}")


def _name(tool: dict[str, Any]) -> str | None:
    """A function's name; None for a native tool of GLM without one."""
    function = tool.get("function") or tool
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name.strip() else None


def _is_bare(tool: dict[str, Any]) -> bool:
    """Whether `tool` is a function without the wrapper `{"type": "function", "function": ...}`."""
    return "function" not in tool and tool.get("type", "function") == "function" and _name(tool) is not None
