"""While a run trains, the same few validation prompts are answered again and again: one can read what it learns.

The prompt of an example is all that stands before its last trained answer (`*` the trained tokens):

    [gMASK] <sop> <|user|> \\n Hi <|assistant|> \\n Hello <|user|> \\n Bye <|assistant|> \\n So long <|user|>
                                               *    *     *                           *     *    *     *
    ^------------------------------ prompt ----------------------------------------^

Training does not notice: answers are greedy and draw no random number, the random state is put back all the same, and
each module is in training mode again afterwards.

T tokens of an example.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from glm_train import dist
from glm_train.checkpoint.disk import disk_errors
from glm_train.data.store import IGNORE, ExampleStore
from glm_train.errors import CheckpointError
from glm_train.parallel.shard import device_of, is_sharded, let_go
from glm_train.tasks.base import GlmTask
from glm_train.text.answers import Answer, Reply, read_answer
from glm_train.text.tokenizer import GlmTokenizer

LONGEST = 2048  # tokens of an example that is chosen, where there are such: answering is to cost little
COLUMNS = ("step", "source", "prompt", "answer", "reference", "stopped_by")


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt's ids (T,), the answer's that follows it in the data, and where it comes from."""

    ids: np.ndarray
    reference: np.ndarray
    source: str


class SampleAnswers(Callback):
    """Answers `count` fixed prompts of `store` after every `every` steps and after the last of `total`.

    A row an answer goes to `path` (JSON Lines; a resumed run drops the rows after `resumed_step`, which come again) and
    to Weights & Biases, where that is a logger of the run. What it costs is printed once. Of several ranks each answers
    some of the prompts, or all of them answer all together where each has a part of the weights, and rank 0 writes.
    """

    def __init__(
        self,
        store: ExampleStore,
        tokenizer: GlmTokenizer,
        path: Path,
        *,
        every: int,
        count: int,
        max_new_tokens: int,
        total: int,
        resumed_step: int = 0,
    ) -> None:
        self.path, self.every, self.total = path, every, total
        self.max_new_tokens = max_new_tokens
        self.prompts = choose_prompts(store, tokenizer, count)
        self._tokenizer, self._resumed_step = tokenizer, resumed_step
        self._told = False
        self._began, self._first_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        if dist.rank() == 0 and self.path.exists():
            _drop_later(self.path, self._resumed_step)
        assert isinstance(task, GlmTask)
        self._began, self._first_step = time.perf_counter(), task.step

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(task, GlmTask)
        if self.prompts and (task.step % self.every == 0 or task.step == self.total):
            self._sample(trainer, task)

    def _sample(self, trainer: Trainer, task: GlmTask) -> None:
        began = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            answers = answer_samples(
                task.model, self._tokenizer, [prompt.ids for prompt in self.prompts], self.max_new_tokens
            )
        if dist.rank() == 0:
            self._write(trainer, task.step, answers)
            self._tell(time.perf_counter() - began, (began - self._began) / (task.step - self._first_step))

    def _write(self, trainer: Trainer, step: int, answers: Sequence[Answer]) -> None:
        stops = self._tokenizer.stop_token_ids
        rows = []
        for prompt, answer in zip(self.prompts, answers, strict=True):
            reference = read_answer(self._tokenizer, prompt.reference.tolist(), stops)
            row = (
                step,
                prompt.source,
                self._tokenizer.decode(prompt.ids),
                shown(answer.reply),
                shown(reference.reply),
                answer.stopped_by,
            )
            rows.append(row)
        with disk_errors(self.path.parent, 0, self.path.name), self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(
                    "samples", columns=list(COLUMNS), data=[list(row) for row in rows], step=step
                )

    def _tell(self, seconds: float, of_a_step: float) -> None:
        """Say once what answering takes. `of_a_step`: the seconds of a step so far, with all that came between."""
        if self._told:
            return
        self._told = True
        share = seconds / max(seconds + self.every * of_a_step, 1e-9)
        print(
            f"samples     {len(self.prompts)} prompts answered in {seconds:.1f} s, every {self.every:,} steps:"
            f" {share:.1%} of the time, in {self.path}",
            flush=True,
        )


def shown(reply: Reply) -> str:
    """A reply as text: what was said, then each call with its arguments."""
    return "\n".join([*([reply.content] if reply.content else []), *map(str, reply.calls)])


def choose_prompts(store: ExampleStore, tokenizer: GlmTokenizer, count: int) -> list[SamplePrompt]:
    """Prompts of examples that are spread evenly over the store, always the same; of short ones where there are any."""
    lengths, trained = np.asarray(store.lengths), np.asarray(store.trained)
    fitting = np.flatnonzero((trained > 0) & (lengths <= LONGEST))
    if not len(fitting):
        fitting = np.sort(
            np.argsort(np.where(trained > 0, lengths, np.iinfo(np.int32).max), kind="stable")[:count]
        )
        fitting = fitting[trained[fitting] > 0]
    places = np.unique(np.linspace(0, len(fitting) - 1, min(count, len(fitting))).round().astype(int))
    prompts = []
    for index in fitting[places].tolist():
        ids, labels = store[index]
        begin, end = answer_span(np.asarray(ids), np.asarray(labels), tokenizer)
        source = ":".join(map(str, store.source(index)))
        prompts.append(SamplePrompt(np.array(ids[:begin]), np.array(ids[begin:end]), source))
    return prompts


def answer_span(ids_T: np.ndarray, labels_T: np.ndarray, tokenizer: GlmTokenizer) -> tuple[int, int]:
    """Where the last trained answer begins and ends, its stop token included.

    Where more than answers is trained, it begins behind the `<|assistant|>` that follows the last other turn.
    """
    trained = np.flatnonzero(labels_T != IGNORE)
    end = int(trained[-1]) + 1
    gaps = np.flatnonzero(np.diff(trained) > 1)
    begin = int(trained[gaps[-1] + 1 if len(gaps) else 0])
    special = tokenizer.special_tokens
    others = [special[name] for name in ("<|user|>", "<|observation|>") if name in special]
    asked = np.flatnonzero(np.isin(ids_T[: end - 1], others))
    if len(asked):
        answers = np.flatnonzero(ids_T[asked[-1] : end] == special.get("<|assistant|>"))
        if len(answers):
            begin = max(begin, int(asked[-1] + answers[0]) + 1)
    return begin, end


def answer_samples(
    model: Any, tokenizer: GlmTokenizer, prompts: Sequence[np.ndarray], max_new_tokens: int
) -> list[Answer]:
    """Greedy answers to prompts of ids, on every rank; the model and the random state stay as they were.

    Ranks that each have the whole model share the prompts out. A model of which each has a part answers all of them on
    all ranks.
    """
    longest = min(max_new_tokens, max(model.config.max_position_embeddings - max(map(len, prompts)), 1))
    if is_sharded(model):
        answers = _answer_in_one_batch(model, tokenizer, prompts, longest)
    else:
        own = prompts[dist.rank() :: dist.world_size()]
        shares = dist.gather_objects(_answer_in_one_batch(model, tokenizer, own, longest))
        answers = [shares[i % len(shares)][i // len(shares)] for i in range(len(prompts))]
    stops = tokenizer.stop_token_ids
    return [read_answer(tokenizer, answer, stops) for answer in answers]


def _answer_in_one_batch(
    model: Any, tokenizer: GlmTokenizer, prompts: Sequence[np.ndarray], max_new_tokens: int
) -> list[list[int]]:
    """The ids that follow each prompt, none for no prompts. What stands behind a stop token is no answer."""
    if not prompts:
        return []
    width = max(map(len, prompts))
    ids_BT = np.zeros((len(prompts), width), np.int64)
    mask_BT = np.zeros((len(prompts), width), np.int64)
    for i, row in enumerate(prompts):
        ids_BT[i, width - len(row) :], mask_BT[i, width - len(row) :] = row, 1
    with _undisturbed(model) as device:
        made_BS = model.generate(
            torch.from_numpy(ids_BT).to(device),
            attention_mask=torch.from_numpy(mask_BT).to(device),
            # Of a shared model, a step of one rank waits for the others, and ranks need not agree on the last bit of a
            # score: so all of them make every step.
            eos_token_id=[] if is_sharded(model) else sorted(tokenizer.stop_token_ids),
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
    return [row[width:] for row in made_BS.tolist()]


@contextmanager
def _undisturbed(model: Any) -> Iterator[torch.device]:
    """The model's device. Afterwards all is as before: random state, settings of generation, shards of the weights."""
    device = device_of(model)
    settings = model.generation_config
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device.index or 0] if device.type == "cuda" else []))
        if "torch._dynamo" in sys.modules:  # each length of the cache would be compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        model.generation_config = {}  # the same rules whatever the folder says
        try:
            yield device
        finally:
            model.generation_config = settings
            let_go(model)


def _drop_later(path: Path, step: int) -> None:
    """Remove the rows of steps that will run again."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        partial = path.with_suffix(".jsonl.tmp")
        partial.write_text("".join(kept), encoding="utf-8")
        partial.replace(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as the samples of a run ({error}). Move it away to go on without its rows"
        ) from None
