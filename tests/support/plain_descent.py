"""Plain gradient descent on made-up documents whose targets are spread very unevenly over a step's microbatches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment

from glm_train import GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification, build, dist
from glm_train.build_task import TARGET_RULES
from glm_train.data.datamodule import GlmDataModule
from glm_train.data.store import CONTINUES, IGNORE
from glm_train.parallel.shard import build_mesh, shard
from glm_train.parallel.strategy import RankStrategy
from glm_train.tasks.base import GlmTask
from glm_train.tasks.chat import ChatTask
from glm_train.tasks.sequence_classification import SequenceClassificationTask
from glm_train.tasks.token_classification import TokenClassificationTask
from support.tiny_heads import make
from support.whole_weights import gather_on_rank_0

KINDS = ("chat", "tokens", "single_label", "multi_label", "regression")
STEPS, BUDGET, PER_STEP, PER_EPOCH = 20, 256, 4, 2
LONG, LABELS = 250, 3
PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class Documents:
    """What a data module asks of a store."""

    rows: list[tuple[np.ndarray, np.ndarray]]
    lengths: np.ndarray
    trained: np.ndarray

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.rows[index]


def documents_of(kind: str) -> Documents:
    """Three documents that fill a microbatch each, with no target, with one, and with as many as there can be, and 90
    short ones, which fill two."""
    dice = np.random.default_rng(0)
    rows, trained = [], []
    for index, length in enumerate([LONG] * 3 + dice.integers(3, 8, 90).tolist()):
        ids = dice.integers(10, 64, length).astype(np.int32)
        labels = _labels(kind, ids, dice)
        if index == 0:
            labels[:] = IGNORE
        elif index == 1 and kind in ("chat", "tokens"):
            labels[:-1] = IGNORE
        elif kind == "chat":
            labels[0] = IGNORE
        rows.append((ids, labels.astype(np.int32)))
        trained.append(int((labels != IGNORE).sum()) if kind in ("chat", "tokens") else int(index > 0))
    return Documents(rows, np.array([len(ids) for ids, _ in rows]), np.array(trained))


def _labels(kind: str, ids: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    if kind == "chat":
        return ids.copy()
    if kind == "tokens":
        return dice.integers(0, LABELS, len(ids)) + CONTINUES * (dice.random(len(ids)) < 0.3)
    if kind == "regression":
        return dice.normal(size=LABELS).astype(np.float32).view(np.int32)
    return dice.integers(0, LABELS, 1) if kind == "single_label" else dice.integers(0, 2, LABELS)


def data_of(kind: str) -> GlmDataModule:
    store: Any = documents_of(kind)
    return GlmDataModule(
        store,
        seed=2,
        microbatches_per_step=PER_STEP,
        steps_per_epoch=PER_EPOCH,
        total_steps=STEPS,
        token_budget=BUDGET,
        validation_tokens=BUDGET,
        rule=TARGET_RULES[kind],
    )


def task_of(kind: str, way: str) -> GlmTask:
    """A random model in this process, or its share of one, and its task."""
    settings: dict[str, Any] = {
        "optimizer": lambda module: torch.optim.SGD(module.parameters(), lr=0.0),
        "learning_rate": lambda step: 0.3,
        "clip_norm": 1.0,
    }
    made: type[GlmTask] = ChatTask
    if kind == "chat":
        model = make(GlmForCausalLM)
    elif kind == "tokens":
        made = TokenClassificationTask
        model = make(GlmForTokenClassification, num_labels=LABELS, classifier_dropout=0.0)
    else:
        made = SequenceClassificationTask
        model = make(GlmForSequenceClassification, num_labels=LABELS, problem_type=PROBLEMS[kind])
    if kind in ("tokens", "single_label"):
        settings["class_weights"] = torch.tensor([0.25, 1.0, 3.0])
    model.train()
    if way in ("fsdp", "hsdp"):
        shard(model, build_mesh("cpu", 2), dtype=None, compute=None)
    return made(model, **settings)


class Kept(Callback):
    """The loss, the norm of the gradient and the tokens of each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, int]] = []

    def on_train_batch_end(self, trainer: Trainer, task: LightningModule, *_: Any) -> None:
        assert isinstance(task, GlmTask)
        assert task.last is not None
        self.steps.append((task.last.loss.item(), task.last.grad_norm.item(), task.last.tokens))


def descend(kind: str, way: str, output: Path) -> None:
    """All steps, in this process alone or as one of a group, and what comes of them, from rank 0 as a file."""
    build.quiet_lightning()
    alone = way == "one"
    task, kept = task_of(kind, way), Kept()
    trainer = Trainer(
        accelerator="cpu",
        strategy="auto" if alone else RankStrategy(torch.device("cpu")),
        plugins=None if alone else [LightningEnvironment()],
        max_epochs=1,
        callbacks=[kept],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=data_of(kind))
    gather_on_rank_0(task.model)
    if dist.rank() == 0:
        torch.save({"steps": kept.steps, "weights": task.model.state_dict()}, output)
    dist.wait_for_all()
