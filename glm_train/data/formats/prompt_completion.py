"""`prompt` and `completion`: two texts, one user turn and one assistant turn; or lists of messages.

Only the completion is trained. Assistant turns of a prompt are read and not learnt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from glm_train.data.formats.messages import read_messages
from glm_train.data.formats.tools import Tools, read_tools
from glm_train.data.formats.turns import Turn, assemble, with_system
from glm_train.data.formats.values import list_of, text_of
from glm_train.errors import DataError
from glm_train.text.messages import Conversation, Message


def parse_prompt_completion(value: dict[str, Any]) -> Conversation:
    """A record with `prompt` and `completion` as a conversation.

    Raises:
        DataError: without a place in the file; it names the key, as in `prompt[1]`.
    """
    prompt, tools = _read(value, "prompt", "user", read_tools(value.get("tools"), "tools"))
    completion, tools = _read(value, "completion", "assistant", tools)
    if not any(turn.message.role == "assistant" for turn in completion):
        raise DataError("`completion` has no assistant turn, so nothing can be trained. Add one to it.")
    prompt = [
        replace(turn, message=replace(turn.message, train=False))
        if turn.message.role == "assistant"
        else turn
        for turn in prompt
    ]
    return assemble(with_system([*prompt, *completion], text_of(value, "system", optional=True)), tools)


def _read(value: dict[str, Any], key: str, role: str, tools: Tools) -> tuple[list[Turn], Tools]:
    if isinstance(value.get(key), list):
        return read_messages(list_of(value[key], f"`{key}`", "messages"), key, tools)
    return [Turn(Message(role, text_of(value, key)), key)], tools
