"""Which tokens of a conversation are trained, and with which stop tokens."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal

from glm_train.errors import ConfigError
from glm_train.text.chat_format import ChatFormat
from glm_train.text.messages import Conversation, Message

IGNORE = -100
_IGNORED = array("i", [IGNORE])

TrainOn = Literal["assistant", "last_assistant", "all"]
StopToken = Literal["role", "endoftext"]


@dataclass(frozen=True)
class Example:
    """An example in the making. `starts` are the indices of the role tokens that open its non-system messages,
    `stops` those of its trained stop tokens; `messages` counts the messages that are in it."""

    input_ids: array[int]
    labels: array[int]
    starts: list[int]
    stops: list[int]
    messages: int
    cut: bool = False

    @property
    def trains(self) -> bool:
        return self.labels != _IGNORED * len(self.labels)


@dataclass(frozen=True)
class Labeller:
    """Conversations to examples, with one choice of what is trained."""

    form: ChatFormat
    train_on: str
    end_of_text: int | None  # the stop token of every turn; None: the role token that comes next

    def __call__(self, conversation: Conversation) -> Example:
        """The example of a conversation that ends with an assistant message. See `chat.encode_chat`."""
        turns = [message for message in conversation.messages if message.role != "system"]
        trained = [
            i
            for i, message in enumerate(turns)
            if message.role == "assistant"
            and message.train
            and (self.train_on != "last_assistant" or i == len(turns) - 1)
        ]
        chat = self.form.encode(conversation, trained)
        ids, ends = chat.ids, [*chat.starts[1:], len(chat.ids)]
        if turns[-1].train:
            ids = ids + array("i", [self._last_stop(turns[-1])])
        if self.train_on == "all":
            labels = self._labels_of_all(conversation, ids, chat.starts)
        else:
            labels = _IGNORED * len(ids)
            for i in trained:
                labels[chat.written[i] : ends[i] + 1] = ids[chat.written[i] : ends[i] + 1]
        stops = [ends[i] for i in trained]
        if self.end_of_text is not None:
            for i in trained:  # where the assistant goes on by itself, its turn has not ended
                if i == len(turns) - 1 or turns[i + 1].role != "assistant":
                    labels[ends[i]] = self.end_of_text
        return Example(ids, labels, chat.starts, stops, len(conversation.messages))

    def _last_stop(self, last: Message) -> int:
        if self.end_of_text is not None:
            return self.end_of_text
        return self.form.role_ids["observation" if last.is_tool_call else "user"]

    def _labels_of_all(self, conversation: Conversation, ids: array[int], starts: list[int]) -> array[int]:
        """Every token but the prefix (`[gMASK]<sop>`), which servers write, and the untrained messages. With
        the system message go the tools. The first token of all is predicted from nothing."""
        system = conversation.messages[0]
        roles = set(self.form.role_ids.values())
        first_role = next(i for i, id_ in enumerate(ids) if id_ in roles)
        first = starts[0] if system.role == "system" and not system.train else max(first_role, 1)
        labels = _IGNORED * first + ids[first:]
        turns = [message for message in conversation.messages if message.role != "system"]
        for message, start, end in zip(turns, starts, [*starts[1:], len(ids)], strict=True):
            if not message.train:
                # Its stop token goes with it, but the header that a server writes after a prompt stays.
                end = min(end + (message.role == "assistant"), len(ids))
                labels[start + 1 : end] = _IGNORED * (end - start - 1)
        return labels


def labeller(form: ChatFormat, train_on: str, stop_token: str) -> Labeller:
    """`ConfigError` where the tokenizer has no token for `stop_token`."""
    if stop_token == "role":
        return Labeller(form, train_on, None)
    if form.end_of_text is None:
        raise ConfigError(
            f"data.stop_token=endoftext: {form.tokenizer!r} has no <|endoftext|> token; use"
            " data.stop_token=role, GLM's own convention"
        )
    return Labeller(form, train_on, form.end_of_text)
