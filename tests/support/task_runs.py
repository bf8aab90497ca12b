"""Short runs of every task that must be the same on one process, two and four, and the files they read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from support.classifier_folder import write_lines
from support.compared_runs import overrides
from support.fitted_texts import TEXTS
from support.fitted_words import SENTENCES, words
from support.model_folder import make_model_folder, write_chats

WAYS = {"ddp": 2, "fsdp": 2, "hsdp": 4}
BALANCED, LORA = "task.class_weights=balanced", ("adapter=lora", "adapter.r=4")
BEST = ("trainer.result=best", "task.metric=val/loss", "trainer.validate_every=2", "optim.lr=0.03")
SAMPLES = ("samples.every=10", "samples.count=3", "samples.max_new_tokens=8")


@dataclass(frozen=True)
class Case:
    """A run: its data, which `files` makes, its microbatches a step, in which WAYS it is run, and other overrides."""

    data: str
    per_step: int
    ways: tuple[str, ...]
    more: tuple[str, ...]


# Between them full and LoRA, and one, two and four microbatches a step and process.
CASES = {
    "chat": Case("chat", 4, ("ddp", "fsdp", "hsdp"), SAMPLES),
    "pieces": Case("tokens", 4, ("ddp", "hsdp"), ("data.label_pieces=all", BALANCED)),
    "bidirectional-lora": Case("tokens", 8, ("fsdp",), ("model.bidirectional=true", *LORA)),
    "single-lora": Case("single", 4, ("fsdp", "hsdp"), (BALANCED, *LORA)),
    "several": Case("several", 8, ("ddp",), ()),
    "values": Case("values", 4, ("fsdp", "hsdp"), ()),
    "best": Case("tokens", 4, ("fsdp",), BEST),
}
HALF = {"chat": "fsdp", "pieces": "ddp", "single-lora": "fsdp"}  # the ways in which they are run in bf16 too
TASKS = {"chat": ("chat", "chat"), "tokens": ("token_classification", "tokens")}
OF_TEXTS = ("sequence_classification", "sequence")


def files(folder: Path, tokenizer_folder: Path) -> None:
    """A model without dropout, and for each kind of data `KIND.jsonl` and, of other examples, `KIND-val.jsonl`.

    Validation has as many examples as no number of processes divides: 5 of tokens, 7 texts, and 3, which are fewer
    than four processes.
    """
    make_model_folder(folder / "model", tokenizer_folder, classifier_dropout=0.0)
    write_chats(folder / "chat.jsonl")
    write_chats(folder / "chat-val.jsonl")
    pairs = [list(zip(*words(one), strict=True)) for one in SENTENCES]
    tagged = [{"tokens": list(tokens), "tags": list(tags)} for tokens, tags in pairs]
    write_lines(folder / "tokens.jsonl", tagged)
    write_lines(folder / "tokens-val.jsonl", [
        {"tokens": one["tokens"][::-1], "tags": [tag.replace("I-", "B-") for tag in one["tags"][::-1]]}
        for one in tagged[:5]
    ])  # fmt: skip
    for kind, label in (
        ("single", lambda i, name: name),
        ("several", lambda i, name: [name, *(["short"] if i % 2 else [])]),
        ("values", lambda i, name: [round(math.sin(i), 3), float(i % 3) - 0.5]),
    ):
        lines = [{"text": text, "label": label(i, name)} for i, (text, name) in enumerate(TEXTS)]
        write_lines(folder / f"{kind}.jsonl", lines)
        write_lines(folder / f"{kind}-val.jsonl", lines[-3:] if kind == "values" else lines[1:])


def job(folder: Path, name: str, way: str, case: Case, *more: str) -> list[str]:
    """The overrides of a run into `folder / NAME-WAY`, where `way` is one of WAYS, or `one` for one process."""
    task, data = TASKS.get(case.data, OF_TEXTS)
    chosen = [f"task={task}", f"data={data}", f"data.validation={folder}/{case.data}-val.jsonl", *case.more]
    if way != "one":
        chosen.append(f"parallel={way}")
    if way == "hsdp":
        chosen.append("parallel.shard_size=2")
    chosen.append(f"batch.accumulate={case.per_step // WAYS.get(way, 1)}")
    return overrides(
        folder / "model", folder / f"{case.data}.jsonl", folder / f"{name}-{way}", *chosen, *more
    )
