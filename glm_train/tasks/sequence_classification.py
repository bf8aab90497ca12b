"""Sequence classification: one class, several labels, or values a document. M documents, L labels or values."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from glm_train.metrics.classes import class_scores, confusion, multi_label_scores, regression_scores
from glm_train.metrics.table import confusion_table, score_table
from glm_train.model.classification import GlmForSequenceClassification
from glm_train.tasks.classifier import ClassifierTask

SINGLE, SEVERAL, VALUES = "single_label_classification", "multi_label_classification", "regression"


class SequenceClassificationTask(ClassifierTask):
    """Fine-tunes a `GlmForSequenceClassification` whose `config.problem_type` says what a document's target is.

    A class: cross-entropy. Several labels: binary cross-entropy, the mean over the labels. Values: squared error, the
    mean over the values. Each is summed over documents, so that the mean of a step is that of transformers.
    """

    model: GlmForSequenceClassification

    def __init__(self, model: GlmForSequenceClassification, **settings: Any) -> None:
        super().__init__(model, **settings)
        problem = model.config.problem_type
        if problem not in (SINGLE, SEVERAL, VALUES):
            raise ValueError(
                f"config.problem_type must be {SINGLE}, {SEVERAL} or {VALUES}, found {problem!r}"
            )
        if self.class_weights is not None and problem != SINGLE:
            raise ValueError(f"class_weights are for {SINGLE}, not for {problem}")
        self.problem: str = problem

    def sum_of_losses(self, logits_ML: Tensor, targets: Tensor) -> Tensor:
        if self.problem == SINGLE:
            return F.cross_entropy(logits_ML, targets, self.class_weights, reduction="sum")
        targets_ML = targets.to(logits_ML.dtype)
        if self.problem == VALUES:
            return F.mse_loss(logits_ML, targets_ML, reduction="sum") / logits_ML.shape[1]
        total = F.binary_cross_entropy_with_logits(logits_ML, targets_ML, reduction="sum")
        return total / logits_ML.shape[1]

    def measures(self, documents: np.ndarray, targets: np.ndarray, logits_ML: np.ndarray) -> dict[str, float]:
        self.tables = []
        if self.problem == VALUES:
            return regression_scores(targets, logits_ML)
        if self.problem == SEVERAL:
            scores = multi_label_scores(targets, logits_ML, self.names)
        else:
            scores = class_scores(targets, logits_ML, self.names)
        self.tables.append(str(score_table(scores)))
        if self.problem == SINGLE:
            counts = confusion(targets, logits_ML.argmax(1), len(self.names))
            self.tables.append(str(confusion_table(counts, self.names)))
        return {name: value for name, value in scores.items() if "/" not in name}
