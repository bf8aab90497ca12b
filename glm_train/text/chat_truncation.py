"""Conversations that are too long lose whole exchanges, oldest first; only the last one may be cut.

An exchange reaches from a user message to the next, so a tool call, its results and the answer stay together,
and what is kept begins with the system message, the tools and a user message:

    system  user call observation answer  user answer  user answer
            ----------- first out ------  second out   its end is cut if it alone is too long
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from glm_train.errors import DataError
from glm_train.text.chat_labels import IGNORE, Example
from glm_train.text.messages import Conversation


class ExampleTooLong(DataError):
    """A conversation of which nothing trainable fits; the caller may leave it out and count it."""


def fit(
    conversation: Conversation, whole: Example, encode: Callable[[Conversation], Example], max_length: int
) -> Example:
    """The newest exchanges of `conversation` that fit, else the beginning of the last one.

    `whole` is the example of all of it. Messages at the end that train nothing go first. Raises
    `ExampleTooLong` where nothing trained remains.
    """
    whole = _up_to_last_trained(whole, len(whole.labels))
    excess = len(whole.input_ids) - max_length
    if excess <= 0:
        return whole
    system = conversation.messages[:1] if conversation.messages[0].role == "system" else ()
    turns = conversation.messages[len(system) :]
    # Role tokens are hard borders for the tokenizer, so an exchange has as many tokens as between its
    # borders. A template may write a turn otherwise where it stands first or last, hence the loop: it ends at
    # the first try for every GLM-4 template.
    users = [i for i, message in enumerate(turns[: len(whole.starts)]) if message.role == "user"]
    for first in users[1:]:
        if whole.starts[first] - whole.starts[0] < excess and first != users[-1]:
            continue
        shorter = encode(replace(conversation, messages=(*system, *turns[first:])))
        shorter = _up_to_last_trained(shorter, len(shorter.labels))
        if len(shorter.input_ids) <= max_length or first == users[-1]:
            return _cut(shorter, max_length)
    return _cut(whole, max_length)


def _cut(example: Example, max_length: int) -> Example:
    """The example where it fits, else its beginning."""
    if len(example.input_ids) > max_length:
        example = _up_to_last_trained(example, max_length)
    if not (example.trains and example.starts):
        raise ExampleTooLong(
            f"no trained token fits into data.max_length={max_length}: tools, system message and the newest"
            " exchange fill it; raise data.max_length or shorten them"
        )
    return example


def _up_to_last_trained(example: Example, size: int) -> Example:
    """The first `size` tokens of the example, or fewer, so that the last one is trained.

    A message of which no more than the role token is left, as the stop token before it, is not in it.
    """
    labels = example.labels[:size]
    while labels and labels[-1] == IGNORE:
        labels.pop()
    size = len(labels)
    if size == len(example.labels):
        return example
    starts = [start for start in example.starts if start + 1 < size]
    whole_turn = size - 1 in example.starts or (size in example.starts and size not in example.stops)
    return Example(
        example.input_ids[:size],
        labels,
        starts,
        [stop for stop in example.stops if stop < size],
        example.messages - (len(example.starts) - len(starts)),
        cut=not whole_turn,
    )
