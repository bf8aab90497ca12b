"""Settings become the LightningModule that is trained, and the rules by which its data become targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glm_train.build_data import METRICS, PreparedData
from glm_train.checkpoint.pretrained import (
    GlmForSequenceClassification,
    GlmForTokenClassification,
    Pretrained,
)
from glm_train.config.schema import LoraAdapter, SequenceClassification, TokenClassification
from glm_train.data.collate import (
    TargetRule,
    document_classes,
    document_flags,
    document_values,
    next_token,
    own_token,
)
from glm_train.data.sequence_targets import SequenceLabels, class_weights
from glm_train.data.store import CONTINUES, ExampleStore
from glm_train.optim.groups import parameter_groups
from glm_train.optim.optimizers import build_optimizer
from glm_train.optim.schedules import schedule_factor
from glm_train.run_plan import RunPlan
from glm_train.tasks.base import GlmTask
from glm_train.tasks.chat import ChatTask
from glm_train.tasks.sequence_classification import SequenceClassificationTask
from glm_train.tasks.token_classification import TokenClassificationTask

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

# By `PreparedData.problem`.
TARGET_RULES: dict[str, TargetRule] = {
    "chat": next_token,
    "tokens": own_token,
    "single_label": document_classes,
    "multi_label": document_flags,
    "regression": document_values,
}


def build_task(config: RunConfig, model: Pretrained, plan: RunPlan, data: PreparedData) -> GlmTask:
    """The task, with its optimizer and learning rate; refuses a schedule that does not fit the run."""
    optim, schedule = config.optim, config.schedule
    ratio: dict[str, Any] = {}
    if isinstance(config.adapter, LoraAdapter) and config.adapter.lr_ratio is not None:
        ratio["lr_ratio_b"] = config.adapter.lr_ratio

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(module, optim.weight_decay, **ratio)
        return build_optimizer(optim.name, groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)

    def learning_rate(step: int) -> float:
        return optim.lr * schedule_factor(
            schedule.name,
            step,
            total_steps=plan.total_steps,
            warmup_steps=schedule.resolve_warmup(plan.total_steps),
            min_lr_ratio=schedule.min_lr_ratio,
            decay_ratio=schedule.decay_ratio,
        )

    learning_rate(0)  # a schedule that does not fit the run is refused here, before anything is written
    shared: dict[str, Any] = {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "clip_norm": optim.clip_norm,
    }
    if data.labels is None:
        return ChatTask(model, **shared)
    return _classification(config, model, data, shared)


def _classification(
    config: RunConfig, model: Pretrained, data: PreparedData, shared: dict[str, Any]
) -> GlmTask:
    task = config.task
    assert isinstance(task, SequenceClassification | TokenClassification)
    assert data.labels is not None
    if task.class_weights == "balanced":
        counts = trained_labels(data)
        shared["class_weights"] = torch.from_numpy(class_weights(counts))
    if isinstance(model, GlmForTokenClassification):
        part = data.validation.part if data.validation is not None else None
        return TokenClassificationTask(model, part=part, **shared)
    assert isinstance(model, GlmForSequenceClassification)
    return SequenceClassificationTask(model, **shared)


def trained_labels(data: PreparedData) -> list[int]:
    """How often each class is a target of training.

    Where the labels were counted when they were found, and every record became one example, no example is read again.
    """
    labels = data.labels
    assert labels is not None
    weighted = any(weight != 1 for weight in data.weights.values())
    if isinstance(labels, SequenceLabels) and not weighted and sum(labels.counts) == len(data.train):
        return list(labels.counts)
    return label_counts(data.train, len(labels.names))


def label_counts(store: ExampleStore, labels: int) -> list[int]:
    """How often each class is a target."""
    counts = np.zeros(labels, np.int64)
    for index in range(len(store)):
        classes = store[index][1]
        counts += np.bincount(classes[classes >= 0] % CONTINUES, minlength=labels)
    return counts.tolist()


def best_metric(config: RunConfig, data: PreparedData) -> str:
    """The scalar of validation that decides which model is best."""
    return config.task.metric or METRICS[data.problem][0]
