"""One conversation in one folder's chat format: rendered by its template, checked against what was said, and
tokenised, with the places where the model writes."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from glm_train.errors import CheckpointError, DataError
from glm_train.text.chat_probe import CURE, TemplateProbe, short
from glm_train.text.chat_thinking import (
    CLOSE,
    HISTORY_CHANGES,
    has_reasoning,
    opens_reasoning,
    still_to_write,
    visible,
    why_not_served,
)
from glm_train.text.chat_tools import check_tools, place_tools
from glm_train.text.chat_words import word_encoder
from glm_train.text.control import remove_sentinel
from glm_train.text.messages import ROLES, Conversation, Message
from glm_train.text.rendering import Rendered
from glm_train.text.tokenizer import GlmTokenizer

_ROLE_TOKEN = re.compile(r"<\|(" + "|".join(ROLES) + r")\|>")
_MARKS_OF_ROLE = len("<||>")
_KEPT_HEADS = 64


@dataclass(frozen=True)
class EncodedChat:
    """Token ids of a conversation. For each message but the system's: `starts` the index of its role token,
    `written` the first index that the model writes, where it is the model's."""

    ids: array[int]
    starts: list[int]
    written: list[int]


class _Turn(NamedTuple):
    """A rendered message that is not the system's: its place in the record, and where its text begins and ends
    in the protected text. `whole` is false where its reasoning was left out."""

    place: int
    message: Message
    begin: int
    end: int
    whole: bool = True


class ChatFormat:
    """The chat format of one tokenizer."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        self.tokenizer = tokenizer
        self.probe = TemplateProbe(tokenizer)
        special = tokenizer.special_tokens
        self.role_ids: dict[str, int] = {}
        for role in ROLES:
            id_ = special.get(f"<|{role}|>")
            if id_ is None:
                raise CheckpointError(f"{tokenizer!r} has no <|{role}|> token: it is no GLM-4 chat tokenizer")
            self.role_ids[role] = id_
        self.end_of_text = special.get("<|endoftext|>")
        self._lowest_role = min(self.role_ids.values())
        self._turn_roles = {id_ for role, id_ in self.role_ids.items() if role != "system"}
        self._words = word_encoder(tokenizer)
        self._encode_words = self._words.encode if self._words else tokenizer.encode_plain
        self._special = special
        self._control = re.compile(
            "(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")"
        )
        tokenizer.encode_rendered(Rendered(""))  # refuses control tokens that change the text around them
        # Many records share their system message and tools, which are often longer than what follows.
        self._encode_head = lru_cache(maxsize=_KEPT_HEADS)(self._encode_text)

    def encode(self, conversation: Conversation, trained: Collection[int] = ()) -> EncodedChat:
        """The ids of a conversation as the template renders it.

        `trained` are the assistant turns to be trained, counted without the system message. Each is tokenised
        as a server would see it: apart from what the generation prompt gives of it, and the last one with its
        reasoning where the template leaves that out. Raises `DataError` where the template left out, changed or
        merged a message, a tool's name, or the tools, and where a trained turn cannot stand as it is served.
        """
        rendered, turns, head = self._render(conversation)
        with_tools = bool(conversation.tools)
        given = self.probe.generation_suffix(with_tools) if trained else ""
        borders: dict[int, int] = {}
        for i in sorted(trained):
            turn, last = turns[i], i == len(turns) - 1
            opens = turns[i - 1].message.role != "assistant"  # behind its own words the model has no prompt
            if turn.whole and (not opens or rendered.protected.startswith(given, turn.begin)):
                if not last and not self.probe.history_is_fixed(with_tools):
                    raise DataError(f"messages[{turn.place}]: {HISTORY_CHANGES}")
                if opens and given:
                    borders[i] = turn.begin + len(given)
            elif (
                last
                and has_reasoning(turn.message)
                and (opens_reasoning(given) or not (turn.whole or given.strip()))
            ):
                return self._encode_reasoning(conversation, rendered, turn, given)
            else:
                reason = why_not_served(turn.message, given, last=last)
                raise DataError(f"messages[{turn.place}]: {reason}")
        return self._tokenize(rendered, turns, head, borders)

    def encode_prompt(self, conversation: Conversation) -> EncodedChat:
        """The ids of a conversation with a generation prompt, which counts as one more turn."""
        rendered, turns, head = self._render(conversation, add_generation_prompt=True)
        chat = self._tokenize(rendered, turns, head, {})
        return EncodedChat(chat.ids, chat.starts, [*chat.written[:-1], len(chat.ids)])

    def _render(
        self, conversation: Conversation, *, add_generation_prompt: bool = False
    ) -> tuple[Rendered, list[_Turn], int]:
        """The rendered text, its turns, and the length of what stands before them."""
        messages, tools = [_as_mapping(message) for message in conversation.messages], None
        if conversation.tools:
            messages, tools = place_tools(self.probe, messages, conversation.tools)
        rendered = self.tokenizer.render_chat(
            messages, tools=tools, add_generation_prompt=add_generation_prompt
        )
        turns, head = self._find_turns(conversation.messages, rendered, add_generation_prompt)
        if conversation.tools:
            check_tools(self.probe, conversation.tools, _plain(rendered, 0, head))
        return rendered, turns, head

    def _find_turns(
        self, messages: Sequence[Message], rendered: Rendered, add_generation_prompt: bool
    ) -> tuple[list[_Turn], int]:
        """Check that each message stands in the text, under its own role token. The generation prompt counts
        as an empty assistant turn."""
        # Role tokens in the protected text are the template's own.
        text = rendered.protected
        before, *parts = _ROLE_TOKEN.split(text)  # role, body, role, body, ...
        head = len(before)
        while parts and parts[0] == "system":
            head += len(parts[0] + parts[1]) + _MARKS_OF_ROLE
            del parts[:2]
        said = [(i, message) for i, message in enumerate(messages) if message.role != "system"]
        if add_generation_prompt:
            said.append((len(messages), Message("assistant", "")))
        written, bodies = parts[::2], parts[1::2]
        if written != [message.role for _, message in said]:
            raise DataError(self._why_other_turns(said, written, add_generation_prompt))
        turns, end = [], head
        for (i, message), role, body in zip(said, written, bodies, strict=True):
            begin = end + len(role) + _MARKS_OF_ROLE
            end = begin + len(body)
            turn = _Turn(i, message, begin, end)
            # Nearly all are plain and stand there as they are.
            plain = not message.metadata and rendered.sentinel is None
            turns.append(
                turn if plain and message.content.strip() in body else self._check_turn(rendered, turn)
            )
        if messages[0].role == "system" and messages[0].content.strip():
            if not self.probe.writes("system"):
                raise DataError(f"messages[0]: {self.probe.name} writes no system messages; {CURE}")
            if messages[0].content.strip() not in _plain(rendered, 0, head):
                raise DataError(self._changed(0, "content", messages[0].content))
        return turns, head

    def _check_turn(self, rendered: Rendered, turn: _Turn) -> _Turn:
        """The turn, marked where only what follows its reasoning was written."""
        body, message = _plain(rendered, turn.begin, turn.end), turn.message
        if message.metadata:
            if not self.probe.writes("tool call"):
                raise DataError(
                    f"messages[{turn.place}]: {self.probe.name} writes no tool calls: it left out the tool's"
                    f" name, {short(message.metadata)}; {CURE}"
                )
            _, name, body = body.partition(message.metadata.strip())
            if not name:
                raise DataError(self._changed(turn.place, "metadata", message.metadata))
        if message.content.strip() in body:
            return turn
        if has_reasoning(message) and visible(message.content) in body:
            return _Turn(turn.place, message, turn.begin, turn.end, whole=False)
        raise DataError(self._changed(turn.place, "content", message.content))

    def _changed(self, index: int, what: str, value: str) -> str:
        return f"messages[{index}]: {self.probe.name} changed or left out the {what} {short(value)}; {CURE}"

    def _why_other_turns(
        self, said: Sequence[tuple[int, Message]], written: list[str], add_generation_prompt: bool
    ) -> str:
        expected = [message.role for _, message in said]
        if add_generation_prompt and written == expected[:-1]:
            return f"{self.probe.name} writes no generation prompt; use the template of a GLM-4 chat model"
        for i, message in said:
            if message.role not in written and not self.probe.writes(message.role):
                header = f"<|{message.role}|>"
                return (
                    f"messages[{i}]: {self.probe.name} writes no {message.role} messages ({header}); {CURE}"
                )
        for (i, message), role in zip(said, [*written, *[""] * len(said)], strict=False):
            if message.role != role and not message.content.strip() and len(written) < len(expected):
                return f"messages[{i}]: {self.probe.name} leaves out messages without content; {CURE}"
        return (
            f"{self.probe.name} left out, merged or moved a message: expected the turns {_list(expected)},"
            f" the rendered text has {_list(written)}; {CURE}"
        )

    def _encode_reasoning(
        self, conversation: Conversation, rendered: Rendered, turn: _Turn, given: str
    ) -> EncodedChat:
        """The last answer with its reasoning, behind the prompt that asks for it."""
        shown = visible(turn.message.content)
        if not shown:
            raise DataError(f"messages[{turn.place}]: nothing follows {CLOSE}; write the answer behind it")
        prompt = self.encode_prompt(Conversation(conversation.messages[:-1], conversation.tools))
        lead, _, rest = _plain(rendered, turn.begin, turn.end).partition(shown)
        if rest.strip():
            raise DataError(
                f"messages[{turn.place}]: {self.probe.name} leaves out the reasoning of an answer and writes"
                f" {short(rest)} after it, so what a server expects cannot be told; {CURE}"
            )
        answer = self.tokenizer.encode_plain(still_to_write(turn.message.content, given, lead))
        return EncodedChat(prompt.ids + array("i", answer), prompt.starts, prompt.written)

    def _tokenize(
        self, rendered: Rendered, turns: Sequence[_Turn], head: int, borders: dict[int, int]
    ) -> EncodedChat:
        """The ids, tokenised apart at each of `borders` (turn -> place in the text). Role tokens are borders
        for the tokenizer already."""
        text, sentinel = rendered.protected, rendered.sentinel
        ids = self._encode_head(text[:head], sentinel)[:]
        cuts: dict[int, int] = {}
        for i, border in borders.items():
            ids += self._encode_text(text[head:border], sentinel)
            cuts[i], head = len(ids), border
        ids += self._encode_text(text[head:], sentinel)
        import numpy as np

        high = np.flatnonzero(np.frombuffer(ids, np.int32) >= self._lowest_role).tolist()
        starts = [i for i in high if ids[i] in self._turn_roles]
        if [ids[i] for i in starts] != [self.role_ids[turn.message.role] for turn in turns]:
            raise CheckpointError(
                f"{self.tokenizer!r} does not encode role tokens as the single tokens they are"
            )
        return EncodedChat(ids, starts, [cuts.get(i, start + 1) for i, start in enumerate(starts)])

    def _encode_text(self, text: str, sentinel: str | None) -> array[int]:
        """The ids of `GlmTokenizer.encode_rendered`, sooner."""
        if self._words and sentinel is None and (whole := self._words.encode_rendered(text)) is not None:
            return whole
        ids: list[int] = []
        for i, piece in enumerate(self._control.split(text)):
            if i % 2:
                ids.append(self._special[piece])
            elif piece:
                ids += self._encode_words(piece if sentinel is None else remove_sentinel(piece, sentinel))
        return array("i", ids)


@lru_cache(maxsize=8)
def chat_format(tokenizer: GlmTokenizer) -> ChatFormat:
    """The format of `tokenizer`, found out once."""
    return ChatFormat(tokenizer)


def _as_mapping(message: Message) -> dict[str, Any]:
    """The message as templates expect it."""
    plain = {"role": message.role, "content": message.content}
    return plain | {"metadata": message.metadata} if message.metadata else plain


def _plain(rendered: Rendered, begin: int, end: int) -> str:
    text = rendered.protected[begin:end]
    return text if rendered.sentinel is None else remove_sentinel(text, rendered.sentinel)


def _list(roles: Sequence[str]) -> str:
    if not roles:
        return "none"
    return " ".join(roles) if len(roles) <= 12 else f"{' '.join(roles[:12])} ... ({len(roles)} in all)"
