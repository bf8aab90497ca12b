"""Answers to many prompts, in batches padded on the left.

Prompts of like length share a batch. Which prompts do follows from the prompts alone, so that a file that is answered
in two goes gets the answers that it would have got in one.

T tokens of a prompt, R rows of a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glm_train.generate import chat_stop_ids
from glm_train.model.generation_settings import DEFAULT_NEW_TOKENS
from glm_train.text.answers import Answer, read_answer, tool_names
from glm_train.text.chat import Conversation, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.trained_model import TrainedModel

BATCH_ROWS = 16
BATCH_TOKENS = 16_384  # of a batch, padding and answers included; a longer prompt has one to itself


@dataclass(frozen=True)
class Prompt:
    """What the model goes on from: ids (T,) int32, and the names of the tools that it was told of."""

    ids: np.ndarray
    tools: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """How answers are made: `options` as `GlmForCausalLM.generate` takes them, greedy without a temperature."""

    options: dict[str, Any]
    precision: str = "fp32"

    @property
    def new_tokens(self) -> int:
        return self.options.get("max_new_tokens") or DEFAULT_NEW_TOKENS


def prompt_of(tokenizer: GlmTokenizer, conversation: Conversation) -> Prompt:
    """The prompt for the next turn of the assistant. Raises `DataError` as `encode_prompt` does."""
    ids = np.asarray(encode_prompt(tokenizer, conversation), np.int32)
    return Prompt(ids, tool_names(conversation.tools))


def answer_prompts(
    trained: TrainedModel,
    prompts: Sequence[Prompt],
    generation: Generation,
    *,
    wanted: Collection[int] | None = None,
    salt: int = 0,
) -> Iterator[tuple[int, Answer]]:
    """The place of each prompt and its answer, batch by batch, long prompts first.

    Of `wanted` places alone, where they are given: a batch with none of them is passed over. `salt` is a number of its
    own for each list of prompts that is answered with one seed.
    """
    stops = chat_stop_ids(trained)
    limit = trained.model.config.max_position_embeddings
    for number, members in enumerate(
        plan_batches([len(p.ids) for p in prompts], generation.new_tokens, limit)
    ):
        if wanted is not None and not any(place in wanted for place in members):
            continue
        rows = _answers(trained, [prompts[i].ids for i in members], generation, stops, (salt << 16) + number)
        for place, made in zip(members, rows, strict=True):
            yield place, read_answer(trained.tokenizer, made, stops, prompts[place].tools)


def plan_batches(lengths: Sequence[int], new_tokens: int, limit: int) -> list[list[int]]:
    """Places by batch, longest first. A prompt whose answer may reach the end of the model's context, `limit`, is
    alone: there the answer ends, and others need not."""
    batches: list[list[int]] = []
    widest = 0
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rows = len(batches[-1]) if batches else BATCH_ROWS
        if rows >= BATCH_ROWS or (rows + 1) * widest > BATCH_TOKENS or widest > limit:
            batches.append([])
            widest = lengths[place] + new_tokens
        batches[-1].append(place)
    return batches


def _answers(
    trained: TrainedModel, rows: list[np.ndarray], generation: Generation, stops: list[int], salt: int
) -> list[list[int]]:
    """The ids that the model writes behind each prompt. Where the memory does not do, in halves."""
    try:
        return _generate(trained, rows, generation, stops, salt)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    half = len(rows) // 2
    return [
        answer
        for part in (rows[:half], rows[half:])
        for answer in _answers(trained, part, generation, stops, salt)
    ]


def _generate(
    trained: TrainedModel, rows: list[np.ndarray], generation: Generation, stops: list[int], salt: int
) -> list[list[int]]:
    model: Any = trained.model
    width = max(map(len, rows))
    ids_RT = np.zeros((len(rows), width), np.int64)
    mask_RT = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        ids_RT[i, width - len(row) :], mask_RT[i, width - len(row) :] = row, 1
    device = next(model.parameters()).device
    options = {name: value for name, value in generation.options.items() if value is not None}
    options["max_new_tokens"] = min(generation.new_tokens, model.config.max_position_embeddings - width)
    options["do_sample"] = "temperature" in options
    if options["do_sample"]:
        options["seed"] = (options.get("seed", 0) * 1_000_003 + salt) % 2**63
    with torch.autocast(device.type, torch.bfloat16, enabled=generation.precision == "bf16-mixed"):
        made_RS = model.generate(
            torch.from_numpy(ids_RT).to(device),
            attention_mask=torch.from_numpy(mask_RT).to(device),
            eos_token_id=stops,
            **options,
        )
    return made_RS[:, width:].tolist()
