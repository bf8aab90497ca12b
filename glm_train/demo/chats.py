"""The demo's chats and topics, from the YAML files of `chatterbot-corpus`.

A YAML file holds `conversations`: lists of messages in which two speakers take turns. The first speaker is the
user. A message here is plain text; a conversation is a tuple of an even number of them.

Greedy answers must be well defined for the model to learn them by heart. So no two conversations that are kept
give different answers after the same messages: the first answer stays.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from glm_train.demo import selection
from glm_train.demo.sources import CHATS, read_yaml
from glm_train.errors import ConfigError


@dataclass(frozen=True)
class Chat:
    """One conversation: `messages` alternate user, assistant, …, and end with the assistant."""

    language: str
    category: str
    messages: tuple[str, ...]

    @property
    def question(self) -> str:
        """What the user says first."""
        return self.messages[0]

    def record(self) -> dict[str, Any]:
        """The conversation as a line of the chat file."""
        roles = ("user", "assistant")
        return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.messages)]}


def read_corpus(dropped: Counter[str]) -> list[Chat]:
    """Every well-formed conversation of the selected categories; `dropped` counts the others by reason."""
    folder = CHATS.folder() / "data"
    chats: list[Chat] = []
    for language, categories in selection.CATEGORIES.items():
        for category in categories:
            path = folder / language / f"{category}.yml"
            document = read_yaml(path, CHATS)
            entries = document.get("conversations") if isinstance(document, dict) else None
            if not isinstance(entries, list):
                raise ConfigError(
                    f"{path}: expected a list under 'conversations'; is {CHATS.distribution!r} intact?"
                )
            for entry in entries:
                messages = _messages(entry, dropped)
                if len(messages) > 2 and (language, category) in selection.ONE_QUESTION_MANY_ANSWERS:
                    dropped["further answer to the same question"] += len(messages) - 2
                    messages = messages[:2]
                if len(messages) % 2:
                    dropped["last message, which nobody answers"] += 1
                    messages = messages[:-1]
                if messages:
                    chats.append(Chat(language, category, messages))
    return chats


def _messages(entry: Any, dropped: Counter[str]) -> tuple[str, ...]:
    """The messages of one entry of the YAML file; none when it is not a list of texts."""
    if not isinstance(entry, list) or not all(isinstance(message, str) for message in entry):
        dropped["entry that is not a list of texts"] += 1
        return ()
    messages = tuple(unicodedata.normalize("NFC", message).strip() for message in entry)
    if not all(messages):
        dropped["conversation with an empty message"] += 1
        return ()
    if any("<|" in message for message in messages):
        dropped["conversation that spells a control token"] += 1
        return ()
    return messages


def select(chats: Iterable[Chat], dropped: Counter[str]) -> list[Chat]:
    """The conversations worth learning, in order, each context with one answer. Counts the others."""
    answers: dict[tuple[str, ...], str] = {}
    kept = []
    for chat in chats:
        reason = _objection(chat)
        turns = list(_turns(chat))
        if reason is None and any(answers.get(context, answer) != answer for context, answer in turns):
            reason = "another answer to a question already kept"
        if reason is None and all(context in answers for context, _ in turns):
            reason = "repeat of a conversation already kept"
        if reason is None:
            answers.update(turns)
            kept.append(chat)
        else:
            dropped[reason] += 1
    return kept


def _objection(chat: Chat) -> str | None:
    """Why this conversation is left out whatever else is kept; None when nothing speaks against it."""
    if any(selection.UNSUITABLE[chat.language].search(message) for message in chat.messages):
        return "conversation unsuitable for a demo"
    question = question_key(chat.question)
    if (question, None) in selection.DAMAGED or (question, chat.messages[1]) in selection.DAMAGED:
        return "answer that is damaged or wrong"
    if any(len(answer) > selection.LONGEST_ANSWER for answer in chat.messages[1::2]):
        return f"answer longer than {selection.LONGEST_ANSWER} characters"
    return None


def _turns(chat: Chat) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each answer with all that was said before it."""
    for place in range(1, len(chat.messages), 2):
        yield tuple(question_key(message) for message in chat.messages[:place]), chat.messages[place]


def question_key(text: str) -> str:
    """The text as far as two askers of the same question agree: no case, no closing punctuation, single spaces."""
    return " ".join(text.casefold().split()).rstrip(" .!?。！？")


def split(chats: Iterable[Chat]) -> tuple[list[Chat], list[Chat]]:
    """Training and validation chats. Conversations that open with the same question stay on the same side."""
    train: list[Chat] = []
    validation: list[Chat] = []
    for chat in chats:
        key = question_key(chat.question)
        held_out = (
            chat.question not in selection.QUESTIONS_TO_TRY
            and fraction(key) < selection.CHAT_VALIDATION_SHARE
        )
        (validation if held_out else train).append(chat)
    return train, validation


def fraction(text: str) -> float:
    """A number from 0 to below 1 that depends on nothing but the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def topics(chats: Iterable[Chat]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """English questions with their category, as (text, label): training and validation rows.

    A question that stands in two categories keeps the first. Each label gives the same share to validation.
    """
    label_of: dict[str, str] = {}
    text_of: dict[str, str] = {}
    for chat in chats:
        if chat.language != "english" or chat.category in selection.NOT_A_TOPIC:
            continue
        if not selection.UNSUITABLE[chat.language].search(chat.question):
            key = question_key(chat.question)
            label_of.setdefault(key, chat.category)
            text_of.setdefault(key, chat.question)
    held_out: set[str] = set()
    sizes = Counter(label_of.values())
    for label, size in sizes.items():
        ranked = sorted((key for key in label_of if label_of[key] == label), key=fraction)
        held_out.update(ranked[: round(size * selection.TOPIC_VALIDATION_SHARE)])
    rows = [
        (key in held_out, (text_of[key], label))
        for key, label in label_of.items()
        if sizes[label] >= selection.LEAST_QUESTIONS_OF_A_TOPIC
    ]
    return [row for out, row in rows if not out], [row for out, row in rows if out]
