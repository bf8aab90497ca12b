"""Made-up labelled documents, the tasks that classify them, and their validation in one process or several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glm_train.data.collate import (
    PackedBatch,
    document_classes,
    document_flags,
    document_values,
    own_token,
    pack,
)
from glm_train.data.datamodule import GlmDataModule
from glm_train.data.report import PrepareReport
from glm_train.data.store import CONTINUES, IGNORE, ExampleStore, ExampleWriter
from glm_train.tagging.schemes import label_names
from glm_train.tasks.classifier import ClassifierTask
from glm_train.tasks.sequence_classification import SequenceClassificationTask
from glm_train.tasks.token_classification import TokenClassificationTask
from support.reference import pair

Example = tuple[np.ndarray, np.ndarray]
TOKENS = 24  # of a microbatch of validation
TYPES = ("LOC", "组织")
RULES = {"token": own_token, "single": document_classes, "several": document_flags, "values": document_values}
PROBLEMS = {
    "single": "single_label_classification",
    "several": "multi_label_classification",
    "values": "regression",
}
LABELS = {"token": label_names(TYPES), "single": list("abcd"), "several": list("abc"), "values": ["x", "y"]}


def models(kind: str, **changes: Any) -> tuple[Any, Any]:
    """Our model and transformers', with equal weights."""
    settings = {"num_labels": len(LABELS[kind]), "id2label": dict(enumerate(LABELS[kind]))}
    settings |= {"problem_type": PROBLEMS.get(kind)} if kind != "token" else {}
    return pair("glm", head="token" if kind == "token" else "sequence", **{**settings, **changes})


def task_of(kind: str, model: Any, **settings: Any) -> ClassifierTask:
    """A task that learns by plain gradient descent."""
    made = TokenClassificationTask if kind == "token" else SequenceClassificationTask
    return made(
        model,
        optimizer=lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
        learning_rate=lambda step: 0.1,
        clip_norm=None,
        **settings,
    )


def examples_of(kind: str, count: int, seed: int = 0, longest: int = 14) -> list[Example]:
    """Random documents: about two in three tokens of a tagged one are labelled, some as later pieces of words."""
    dice = np.random.default_rng(seed)
    labels, made = len(LABELS[kind]), []
    for _ in range(count):
        length = int(dice.integers(3, longest))
        ids = dice.integers(0, 97, length).astype(np.int32)
        if kind == "token":
            row = dice.integers(0, labels, length)
            row[1:] += CONTINUES * (dice.random(length - 1) < 0.2)
            target = np.where(dice.random(length) < 0.35, IGNORE, row)
        elif kind == "single":
            target = dice.integers(0, labels, 1)
        elif kind == "several":
            target = dice.integers(0, 2, labels)
        else:
            target = dice.normal(size=labels).astype(np.float32).view(np.int32)
        made.append((ids, target.astype(np.int32)))
    return made


def targets_in(kind: str, examples: Sequence[Example]) -> int:
    return sum(int((labels != IGNORE).sum()) for _, labels in examples) if kind == "token" else len(examples)


def packed(kind: str, examples: Sequence[Example]) -> PackedBatch:
    return pack(examples, list(range(len(examples))), targets_in(kind, examples), RULES[kind])


def store_of(folder: Path, kind: str, examples: Sequence[Example], parts: Sequence[int] = ()) -> ExampleStore:
    folder.mkdir(parents=True)
    with ExampleWriter(folder) as writer:
        for index, (ids, labels) in enumerate(examples):
            trained = targets_in(kind, [(ids, labels)])
            writer.append(ids, labels, trained=trained, file=0, line=index, part=parts[index] if parts else 0)
        writer.finish(PrepareReport(), {})
    return ExampleStore(folder, ["made"])


def validate(task: ClassifierTask, kind: str, store: ExampleStore, tokens: int = TOKENS) -> dict[str, float]:
    """This process's share of a validation, as a trainer runs it."""
    data = GlmDataModule(
        store, store, seed=0, microbatches_per_step=1, steps_per_epoch=1, total_steps=1, token_budget=tokens,
        validation_tokens=tokens, rule=RULES[kind],
    )  # fmt: skip
    task.eval()
    task.on_validation_epoch_start()
    with torch.no_grad():
        for index, microbatches in enumerate(data.val_dataloader()):
            task.validation_step(microbatches, index)
    task.on_validation_epoch_end()
    return task.validation


def validated(folder: Path, kind: str) -> tuple[dict[str, float], list[str]]:
    """The measures and the tables of a random model on the store in `folder`, which has windows of long records."""
    store = ExampleStore(folder, ["made"])
    task = task_of(kind, models(kind)[0], **({"part": store.part} if kind == "token" else {}))
    return validate(task, kind, store), task.tables


def rank_validates(rank: int, world_size: int, folder: Path, kinds: Sequence[str]) -> None:
    """One of several processes; each writes what it found."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world_size
    )
    try:
        found = {kind: validated(folder / kind, kind) for kind in kinds}
        torch.save(found, folder / f"rank{rank}.pt")
    finally:
        torch.distributed.destroy_process_group()
