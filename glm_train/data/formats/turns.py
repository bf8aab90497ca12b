"""Turns with the place that each came from, put together to a conversation that can be trained on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from glm_train.data.formats.tools import Tools, plain_call, tool_names
from glm_train.errors import DataError
from glm_train.text.messages import Conversation, Message, check_messages


@dataclass(frozen=True)
class Turn:
    """A message, where it stands in the record (`messages[2]`), and the id of the call it makes or answers."""

    message: Message
    where: str
    call_id: str = ""


def with_system(turns: list[Turn], system: str) -> list[Turn]:
    """The turns behind a system message that the record has in a field of its own; empty for none."""
    if not system.strip():
        return turns
    for turn in turns:
        if turn.message.role == "system":
            if turn.message.content == system:
                return turns
            raise DataError(f"{turn.where}: it is another system message than `system`. Keep one of the two.")
    return [Turn(Message("system", system), "system"), *turns]


def assemble(turns: list[Turn], tools: Tools) -> Conversation:
    """The conversation, with calls that were written as plain text named and results in the order of their calls.

    Raises:
        DataError: without a place in the file; it names the place in the record.
    """
    turns = _order_results(_name_plain_calls(turns, tools))
    if not any(turn.message.role == "assistant" for turn in turns):
        raise DataError(
            "there is no assistant turn, so nothing can be trained. Add one, or remove the record."
        )
    messages = tuple(turn.message for turn in turns)
    try:
        check_messages(messages)
    except DataError as error:
        named = re.sub(r"^messages\[(\d+)\]", lambda match: turns[int(match[1])].where, str(error))
        raise DataError(named) from None
    return Conversation(messages, tools)


def _name_plain_calls(turns: Sequence[Turn], tools: Tools) -> list[Turn]:
    """Calls written as plain content, `{"name": ..., "arguments": {...}}`, in the form that is rendered.

    Where the record declares tools, such a text is a call if its name is one of theirs. Where it declares none,
    it is a call if a tool's result follows: elsewhere such a text may be the answer itself.
    """
    declared = tool_names(tools)
    named = list(turns)
    for i, turn in enumerate(turns):
        message = turn.message
        if message.role != "assistant" or message.metadata or (call := plain_call(message.content)) is None:
            continue
        name, arguments = call
        answered = i + 1 < len(turns) and turns[i + 1].message.role == "observation"
        if answered and declared and name not in declared:
            raise DataError(
                f"{turn.where}: it calls {name!r}, which is not among the record's tools. Add it to `tools`."
            )
        if name in declared or answered:
            named[i] = replace(turn, message=replace(message, metadata=name, content=arguments))
    return named


def _order_results(turns: list[Turn]) -> list[Turn]:
    """Results in the order of the calls that they answer: GLM knows them by their order alone."""
    ordered = list(turns)
    start = 0
    while start < len(turns):
        calls = _run(turns, start, lambda turn: turn.message.is_tool_call)
        results = _run(turns, start + len(calls), lambda turn: turn.message.role == "observation")
        ids = [call.call_id for call in calls]
        if calls and results and all(ids) and len(set(ids)) == len(ids) and all(r.call_id for r in results):
            for result in results:
                if result.call_id not in ids:
                    raise DataError(
                        f"{result.where}: it answers the call {result.call_id!r}, and the calls before it are"
                        f" {', '.join(map(repr, ids))}. Correct `tool_call_id`."
                    )
            begin = start + len(calls)
            ordered[begin : begin + len(results)] = sorted(results, key=lambda r: ids.index(r.call_id))
        start += max(len(calls) + len(results), 1)
    return ordered


def _run(turns: Sequence[Turn], start: int, holds: Callable[[Turn], bool]) -> list[Turn]:
    end = start
    while end < len(turns) and holds(turns[end]):
        end += 1
    return list(turns[start:end])
