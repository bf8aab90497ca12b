"""Scores of a chat model on `data.validation`: the loss of its tokens, as `fit` logs it and by turn, and of replies.

The loss is teacher-forced: each trained token is predicted from all that stands before it in the data. Replies are
written by the model itself, to prompts that end before the last answer of a record.

M trained positions of a microbatch, T its tokens, H hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from glm_train.bar import Progress, silent
from glm_train.build_data import prepare_for
from glm_train.data.chat_formats import parse_chat
from glm_train.data.collate import PackedBatch, pack
from glm_train.data.plan import plan_in_order
from glm_train.data.readers.record import Record
from glm_train.data.records import read_items
from glm_train.data.sources import files_of, find_sources
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError, DataError
from glm_train.generate import check_chat
from glm_train.losses.linear_cross_entropy import linear_cross_entropy_metrics
from glm_train.metrics.table import Table
from glm_train.predict.batches import BATCH_TOKENS
from glm_train.predict.chat_answers import Generation, answer_prompts, prompt_of
from glm_train.predict.chat_scores import Replied, reply_scores
from glm_train.predict.output import Evaluation
from glm_train.predict.questions import Question, split_answer
from glm_train.text.answers import reply_of
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.trained_model import TrainedModel

SAMPLES, NEW_TOKENS = 32, 256
MOST_TURNS = 8  # rows of the table; later answers share the last


def evaluate_chat(
    trained: TrainedModel,
    config: RunConfig,
    *,
    samples: int = SAMPLES,
    max_new_tokens: int = NEW_TOKENS,
    progress: Progress = silent,
) -> Evaluation:
    """`val/loss`, `val/perplexity` and `val/token_accuracy` over all trained tokens, a table of them by turn, and the
    scores of `chat_scores.reply_scores` over greedy replies to `samples` prompts (0 for none), spread over the data.

    Raises `ConfigError` for settings that do not fit, and `DataError` for data that cannot be used, with its place.
    """
    check_chat(trained)
    if samples < 0 or max_new_tokens < 1:
        raise ConfigError(
            f"samples={samples}, max_new_tokens={max_new_tokens}: must be at least 0 and at least 1"
        )
    store = _prepare(trained.tokenizer, config, progress)
    sums = turn_sums(trained, store, config.trainer.precision, progress)
    metrics = {f"val/{name}": value for name, value in _scores(*sums.sum(0).tolist()).items()}
    notes = store.report.losses()
    if samples:
        replies, skipped = _replies(trained, config, store, samples, max_new_tokens, progress)
        found, more = reply_scores(replies, getattr(config.data, "stop_token", "role"))
        metrics |= {f"val/{name}": value for name, value in found.items()}
        notes += [f"replies to {len(replies):,} prompts, greedy, {max_new_tokens:,} tokens at most", *more]
        if skipped:
            notes.append(f"{skipped:,} prompts leave no room for an answer in the model's context: not asked")
    return Evaluation(metrics, [str(_turn_table(sums))], notes)


def _prepare(tokenizer: GlmTokenizer, config: RunConfig, progress: Progress) -> ExampleStore:
    """The examples of `data.validation`, as `fit` prepares them."""
    files = files_of(find_sources(config.data.validation or (), split="validation"))
    return prepare_for(config, tokenizer, None, progress)(files)


def turn_sums(
    trained: TrainedModel, store: ExampleStore, precision: str, progress: Progress = silent
) -> Tensor:
    """For each answer of a conversation, the first, the second ..., the sum of its tokens' losses, the tokens that are
    the likeliest ones, and the tokens: (MOST_TURNS, 3) float64."""
    sums = torch.zeros(MOST_TURNS, 3, dtype=torch.float64)
    device = next(trained.model.parameters()).device
    plan = plan_in_order(
        store.lengths, store.trained, token_budget=max(int(store.lengths.max()), BATCH_TOKENS)
    )
    done = 0
    for members in plan.steps[0].microbatches:
        examples = [store[i] for i in members]
        batch = pack(examples, members, plan.steps[0].trained)
        turns_T = np.concatenate([answer_numbers(ids, trained.tokenizer) for ids, _ in examples])
        turn_M = torch.from_numpy(turns_T)[batch.target_positions + 1].clamp(1, MOST_TURNS) - 1
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"),
        ):
            _add(sums, trained.model, batch.to(device), turn_M)
        done += len(members)
        progress("examples", done, len(store))
    return sums


def _add(sums: Tensor, model: Any, batch: PackedBatch, turn_M: Tensor) -> None:
    """The loss of `tasks.chat`, turn by turn."""
    hidden_MH = model.model.packed_hidden(
        batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen, batch.target_positions
    )
    for turn in turn_M.unique().tolist():
        rows = (turn_M == turn).nonzero()[:, 0].to(hidden_MH.device)
        loss, correct = linear_cross_entropy_metrics(
            hidden_MH[rows], model.lm_head.weight, batch.targets[rows]
        )
        sums[turn] += torch.tensor([loss.item(), correct.item(), len(rows)], dtype=torch.float64)


def answer_numbers(ids_T: np.ndarray, tokenizer: GlmTokenizer) -> np.ndarray:
    """How many answers have begun up to each token: (T,) int64. Text and calls that follow each other are one answer,
    and the token that ends it belongs to it.

        <|user|> Hi <|assistant|> Hello <|user|> Bye <|assistant|> I <|assistant|> f {} <|observation|>
            0    0        1         1       1     1       2        2      2        2  2        2
    """
    special = tokenizer.special_tokens
    assistant = special.get("<|assistant|>")
    roles = [special[name] for name in ("<|user|>", "<|assistant|>", "<|observation|>") if name in special]
    places = np.flatnonzero(np.isin(ids_T, roles))
    answers = ids_T[places] == assistant
    follows = np.concatenate([[False], answers[:-1]]) if len(answers) else answers
    begun = np.zeros(len(ids_T), np.int64)
    begun[places[answers & ~follows]] = 1
    return begun.cumsum()


def _scores(loss: float, correct: float, tokens: float) -> dict[str, float]:
    mean = loss / max(tokens, 1)
    return {
        "loss": mean,
        "perplexity": math.exp(min(mean, 700)),
        "token_accuracy": correct / max(tokens, 1),
    }


def _turn_table(sums: Tensor) -> Table:
    rows = []
    for turn, (loss, correct, tokens) in enumerate(sums.tolist(), 1):
        if tokens:
            found = _scores(loss, correct, tokens)
            name = f"{turn}" if turn < MOST_TURNS else f"{turn} and later"
            numbers = (f"{found['loss']:.4f}", f"{found['perplexity']:.4g}", f"{found['token_accuracy']:.1%}")
            rows.append((name, *numbers, f"{tokens:,.0f}"))
    header = ("answer", "loss", "perplexity", "token accuracy", "tokens")
    return Table("by the answer's place in its conversation", header, tuple(rows))


def _replies(
    trained: TrainedModel,
    config: RunConfig,
    store: ExampleStore,
    samples: int,
    max_new_tokens: int,
    progress: Progress,
) -> tuple[list[Replied], int]:
    """Replies to prompts that are spread over the data, and how many prompts are too long to be asked."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(samples, len(store))).round().astype(int))
    places = dict.fromkeys(store.source(int(i)) for i in chosen)
    questions, prompts = [], []
    for question in _questions(places, getattr(config.data, "format", "auto")):
        prompt = prompt_of(trained.tokenizer, question.conversation)
        if len(prompt.ids) < trained.model.config.max_position_embeddings:
            questions.append(question)
            prompts.append(prompt)
    generation = Generation({"max_new_tokens": max_new_tokens}, config.trainer.precision)
    replies = []
    for place, answer in answer_prompts(trained, prompts, generation):
        question = questions[place]
        tools = question.conversation.tools or ()
        replies.append(Replied(answer, reply_of(question.reference), tools))
        progress("replies", len(replies), len(prompts))
    return replies, len(places) - len(prompts)


def _questions(places: dict[tuple[str, int], None], format: str) -> Iterator[Question]:
    """The questions of these records, each a file and a line. Files are read no further than the last of theirs."""
    wanted: dict[str, set[int]] = {}
    for file, line in places:
        wanted.setdefault(file, set()).add(line)
    for file, lines in wanted.items():
        for item in read_items(Path(file)):
            if item.line in lines and isinstance(item, Record):
                try:
                    yield split_answer(parse_chat(item.value, format))
                except DataError as error:  # prepared before, and changed since
                    raise error.at(item.path, item.line) from None
                lines.remove(item.line)
                if not lines:
                    break
