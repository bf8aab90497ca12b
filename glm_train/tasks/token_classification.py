"""Token classification: a label for each word. M labelled pieces of words, H hidden, L labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from glm_train.data.store import CONTINUES
from glm_train.metrics.entities import entity_scores, tag_confusion, word_scores
from glm_train.metrics.table import confusion_table, score_table
from glm_train.model.classification import GlmForTokenClassification
from glm_train.tagging.decode import viterbi
from glm_train.tagging.schemes import is_iob2
from glm_train.tasks.classifier import ClassifierTask


def records_of(documents: np.ndarray, part: Callable[[int], int] | None) -> np.ndarray:
    """Which record each target belongs to, (M,), where `documents` (M,) are the examples of the targets, ascending.

    A long record is several examples, one after the other, of which `part` says the how-manieth each is:

        example   0  1  2  3  4  5
        part      0  0  1  2  0  1
        record    0  1  1  1  2  2

    Without `part` each example is a record.
    """
    if part is None or not len(documents):
        return documents
    parts = np.array([part(example) for example in range(int(documents[-1]) + 1)])
    begins = np.ones(len(parts), bool)
    # a part that is not the next one has lost its beginning, and is a record of its own
    begins[1:] = (parts[1:] == 0) | (parts[1:] != parts[:-1] + 1)
    return (np.cumsum(begins) - 1)[documents]


class TokenClassificationTask(ClassifierTask):
    """Fine-tunes a `GlmForTokenClassification`.

    The loss is cross-entropy at each labelled piece. Measures count words: a class of `CONTINUES` or more is that of a
    later piece, which is trained and not scored. Entities are those of the best tags that make sense (`viterbi`);
    `val/f1_argmax` is the F1 of each word's likeliest tag.

    `part` is that of the validation store: the windows of a long record are put together before they are decoded.
    """

    model: GlmForTokenClassification

    def __init__(
        self, model: GlmForTokenClassification, *, part: Callable[[int], int] | None = None, **settings: Any
    ) -> None:
        super().__init__(model, **settings)
        self._part = part

    def head(self, hidden_MH: Tensor) -> Tensor:
        return self.model.score(self.model.dropout(hidden_MH))

    def sum_of_losses(self, logits_ML: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits_ML, targets % CONTINUES, self.class_weights, reduction="sum")

    def measures(self, documents: np.ndarray, targets: np.ndarray, logits_ML: np.ndarray) -> dict[str, float]:
        words = targets < CONTINUES
        edges = np.flatnonzero(np.diff(records_of(documents[words], self._part))) + 1
        names = np.array(self.names, object)
        sentences = np.split(logits_ML[words], edges)
        gold = [names[ids].tolist() for ids in np.split(targets[words], edges)]
        likeliest = [names[one.argmax(1)].tolist() for one in sentences]
        if is_iob2(self.names):
            predicted = [names[viterbi(one, self.names)].tolist() for one in sentences]
            scores = entity_scores(gold, predicted)
            chosen = ("f1", "precision", "recall", "accuracy")
            result = {name: scores[name] for name in chosen}
            result["f1_argmax"] = entity_scores(gold, likeliest)["f1"]
        else:
            predicted = likeliest
            scores = word_scores(gold, predicted)
            result = {name: scores[name] for name in ("accuracy", "f1", "f1_micro")}
        # types that are only ever predicted come and go; a column of metrics.csv stays
        kinds = [name.partition("/")[2] for name in scores if name.startswith("f1/")]
        result |= {f"f1/{kind}": scores[f"f1/{kind}"] for kind in kinds if scores[f"support/{kind}"]}
        self.tables = [
            str(score_table(scores)),
            str(confusion_table(*tag_confusion(gold, predicted), title="confusion of words")),
        ]
        return result
