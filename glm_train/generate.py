"""Talk to a model: a prompt in, an answer out, token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from glm_train.checkpoint.pretrained import GlmForCausalLM
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.model.generation import stop_ids
from glm_train.run_folder import find_model
from glm_train.text.chat import Conversation, Message, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer


@dataclass(frozen=True)
class Answer:
    """A reply without its stop token, which token ended it (None: the length limit), and its tokens."""

    text: str
    stopped_by: str | None
    tokens: int


class Talker:
    """A model and its tokenizer, loaded once for several prompts: of a run, a model folder or a hub id."""

    def __init__(self, run_or_model: str, device: str | None = None) -> None:
        folder = find_model(run_or_model)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = GlmTokenizer.from_pretrained(folder)
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.model: Any = GlmForCausalLM.from_pretrained(folder, dtype=dtype, device=self.device).eval()
        check_vocabulary(self.model.config, self.tokenizer)
        # Also where config.json lists fewer: a role token means that it is someone else's turn.
        self.stop_ids = sorted({*stop_ids(self.model), *self.tokenizer.stop_token_ids})

    def answer(
        self, messages: list[Message], *, on_text: Callable[[str], None] | None = None, **sampling: Any
    ) -> Answer:
        """The assistant's reply to `messages`. `on_text` gets the reply's text piece by piece as it is made.

        `sampling` goes to `GlmForCausalLM.generate`; without a `temperature` the answer is greedy, whatever the
        model's generation_config says.
        """
        prompt = encode_prompt(self.tokenizer, Conversation(tuple(messages), None))
        ids = torch.tensor([prompt], device=self.device)
        stream = _TextStream(self.tokenizer, self.stop_ids, on_text)
        sampling = {"do_sample": "temperature" in sampling, **sampling}
        new = self.model.generate(ids, streamer=stream, eos_token_id=self.stop_ids, **sampling)
        stream.end()
        out = new[0, len(prompt) :].tolist()
        stopped = out[-1] in self.stop_ids
        return Answer(
            text=self.tokenizer.decode(out[:-1] if stopped else out).removeprefix("\n"),
            stopped_by=self.tokenizer.decode(out[-1:]) if stopped else None,
            tokens=len(out),
        )


class _TextStream:
    """Turns token ids into text as they come. A character whose bytes are spread over tokens waits for the last."""

    def __init__(
        self, tokenizer: GlmTokenizer, stop_ids: list[int], on_text: Callable[[str], None] | None
    ) -> None:
        self._tokenizer, self._stop_ids, self._on_text = tokenizer, stop_ids, on_text
        self._held: list[
            int
        ] = []  # tokens that are not shown yet: text before them does not change how they read
        self._begun = False

    def __call__(self, tokens_B: Tensor) -> None:
        token = int(tokens_B[0])
        if self._on_text is not None and token not in self._stop_ids:
            self._held.append(token)
            text = self._tokenizer.decode(self._held)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):
                self._show(text)

    def end(self) -> None:
        """Show what was held back for a character that did not come."""
        if self._held:
            self._show(self._tokenizer.decode(self._held))

    def _show(self, text: str) -> None:
        self._held.clear()
        if self._on_text is not None:
            self._on_text(text if self._begun else text.removeprefix("\n"))
        self._begun = True
