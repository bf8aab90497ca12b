"""Talk to a model: a prompt in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.errors import ConfigError, DataError
from glm_train.model.generation import stop_ids
from glm_train.model.generation_settings import DEFAULT_NEW_TOKENS
from glm_train.text.answers import ASSISTANT, OBSERVATION, Answer, call_in, may_become_call, read_answer
from glm_train.text.answers import tool_names as names_of
from glm_train.text.chat import Conversation, Message, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.trained_model import TrainedModel, load_trained

__all__ = ["Answer", "Talker", "chat_stop_ids", "check_chat", "load_chat"]


def load_chat(run_or_model: str, device: str | None = None) -> TrainedModel:
    """The chat model that a user's word names, in bf16 on a GPU and in fp32 elsewhere.

    Raises `ConfigError` for a model of another task.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    return check_chat(load_trained(run_or_model, device=device, dtype=dtype))


def check_chat(trained: TrainedModel) -> TrainedModel:
    """The model, if it is one that writes. Raises `ConfigError` where it has labels, `CheckpointError` where the
    tokenizer is another model's."""
    if trained.task != "chat":
        kind = trained.task.replace("_", " ")
        raise ConfigError(
            f"{trained.folder}: this is a {kind} model, which gives labels and writes no text. Use glm-train predict"
        )
    check_vocabulary(trained.model.config, trained.tokenizer)
    return trained


def chat_stop_ids(trained: TrainedModel) -> list[int]:
    """The tokens that end an answer."""
    # Also where config.json lists fewer: a role token means that it is someone else's turn.
    return sorted({*stop_ids(trained.model), *trained.tokenizer.stop_token_ids})


class Talker:
    """A model and its tokenizer, loaded once for several prompts: of a run, a model folder or a hub id."""

    def __init__(self, run_or_model: str, device: str | None = None) -> None:
        trained = load_chat(run_or_model, device)
        self.tokenizer = trained.tokenizer
        self.model: Any = trained.model
        self.stop_ids = chat_stop_ids(trained)

    def answer(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        on_text: Callable[[str], None] | None = None,
        **sampling: Any,
    ) -> Answer:
        """The assistant's reply to `messages`. `on_text` gets the reply's text piece by piece as it is made; what may
        be the call of a tool is held back until that is sure.

        `sampling` goes to `GlmForCausalLM.generate`; without a `temperature` the answer is greedy, whatever the
        model's generation_config says. An answer ends where the model's context does. Raises `DataError` for messages
        that cannot stand so, that the template does not show, or that leave no room for an answer.
        """
        prompt = encode_prompt(self.tokenizer, Conversation(tuple(messages), tuple(tools) if tools else None))
        room = self.model.config.max_position_embeddings - len(prompt)
        if room < 1:
            raise DataError(
                f"the conversation has {len(prompt):,} tokens, and the model's context"
                f" {len(prompt) + room:,}: nothing is left for an answer; shorten it"
            )
        ids = torch.tensor([prompt], device=next(self.model.parameters()).device)
        names = names_of(tools)
        stream = _TextStream(self.tokenizer, self.stop_ids, on_text, names)
        new = min(sampling.pop("max_new_tokens", None) or DEFAULT_NEW_TOKENS, room)
        sampling = {"do_sample": "temperature" in sampling, "max_new_tokens": new, **sampling}
        made = self.model.generate(ids, streamer=stream, eos_token_id=self.stop_ids, **sampling)
        stream.end()
        return read_answer(self.tokenizer, made[0, len(prompt) :].tolist(), self.stop_ids, names)


class _TextStream:
    """Turns token ids into text as they come: without stop tokens, without calls, and without the line break that
    begins an answer. A character whose bytes are spread over tokens waits for the last."""

    def __init__(
        self,
        tokenizer: GlmTokenizer,
        stop_ids: Collection[int],
        on_text: Callable[[str], None] | None,
        tools: Collection[str] = (),
    ) -> None:
        self._tokenizer, self._stop_ids, self._on_text, self._tools = tokenizer, stop_ids, on_text, tools
        special = tokenizer.special_tokens
        self._part_id, self._call_id = special.get(ASSISTANT), special.get(OBSERVATION)
        # tokens that are no text yet: text before them does not change how they read
        self._held: list[int] = []
        self._part = ""  # text of the present part that is not shown yet
        self._flows = False  # the present part is known to be text
        self._shown = False
        self._handed_over = False

    def __call__(self, tokens_B: Tensor) -> None:
        token = int(tokens_B[0])
        if self._on_text is None:
            return
        if token in self._stop_ids:
            self._handed_over = token == self._call_id
        elif token == self._part_id:
            self._end_part(handed_over=True)
        else:
            self._held.append(token)
            text = self._tokenizer.decode(self._held)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                self._add(text)

    def end(self) -> None:
        """Show what was held back for a character or a call that did not come."""
        self._end_part(handed_over=self._handed_over)

    def _add(self, text: str) -> None:
        self._held.clear()
        self._part += text
        if self._flows or not may_become_call(self._part, self._tools):
            self._flow()

    def _end_part(self, *, handed_over: bool) -> None:
        if self._held:
            self._add(self._tokenizer.decode(self._held))
        if not self._flows and call_in(self._part, handed_over, self._tools) is None:
            self._flow()
        self._part, self._flows = "", False

    def _flow(self) -> None:
        """Show the text of the part so far, on a line of its own where another part was shown before."""
        text, self._part = self._part if self._flows else self._part.removeprefix("\n"), ""
        begins, self._flows = not self._flows, True
        if text and self._on_text is not None:
            self._on_text(f"\n{text}" if begins and self._shown else text)
            self._shown = True
