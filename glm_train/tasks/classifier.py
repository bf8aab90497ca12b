"""What both classification tasks share: scores at the targets alone, and a validation that counts each target once.

M targets, H hidden, L labels. A target is a document (sequence classification) or a labelled token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glm_train import dist
from glm_train.data.collate import PackedBatch
from glm_train.errors import CheckFailed, DataError
from glm_train.model.classification import GlmForSequenceClassification, GlmForTokenClassification
from glm_train.tasks.base import GlmTask


class ClassifierTask(GlmTask):
    """A head on hidden states; subclasses say which loss its scores have and how they are measured.

    `class_weights` (L,) multiply the losses of their classes, also in validation. Their mean over the training targets
    must be 1, as that of `data.sequence_labels.class_weights` is: the loss is divided by the number of targets.
    `names` are the labels by their number; `tables` is what the newest validation has to print.
    """

    model: GlmForSequenceClassification | GlmForTokenClassification
    class_weights: Tensor | None

    def __init__(
        self,
        model: GlmForSequenceClassification | GlmForTokenClassification,
        *,
        class_weights: Tensor | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(model, **settings)
        self.names: list[str] = [model.config.id2label[label] for label in range(model.num_labels)]
        self.tables: list[str] = []
        if class_weights is not None and class_weights.shape != (len(self.names),):
            raise ValueError(
                f"class_weights must be ({len(self.names)},), found {tuple(class_weights.shape)}"
            )
        # not persistent: they follow from the data, and a saved state holds what is learnt
        self.register_buffer("class_weights", class_weights, persistent=False)

    def head(self, hidden_MH: Tensor) -> Tensor:
        """The scores (M, L) of hidden states."""
        return self.model.score(hidden_MH)

    def sum_of_losses(self, logits_ML: Tensor, targets: Tensor) -> Tensor:
        """The sum of the targets' losses, 0-d, in the precision of the scores. Of no targets: 0, attached to them."""
        raise NotImplementedError

    def measures(self, documents: np.ndarray, targets: np.ndarray, logits_ML: np.ndarray) -> dict[str, float]:
        """Scores of all validation targets, in the order of the documents, and `self.tables`."""
        raise NotImplementedError

    def loss(self, batch: PackedBatch, scale: float) -> Tensor:
        return self.sum_of_losses(self.logits(batch), batch.targets) * scale

    def logits(self, batch: PackedBatch) -> Tensor:
        """fp32 scores (M, L) of the targets. The last MLP and the head run for these positions alone."""
        hidden_MH = self.model.model.packed_hidden(
            batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen, batch.target_positions
        )
        # The head costs next to nothing, and bf16 would leave its scores two or three digits.
        dtype = next(self.model.score.parameters()).dtype
        with torch.autocast(hidden_MH.device.type, enabled=False):
            return self.head(hidden_MH.to(dtype)).float()

    def on_validation_epoch_start(self) -> None:
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def validation_step(self, microbatches: list[PackedBatch], _index: int) -> None:
        for batch in microbatches:
            logits_ML = self.logits(batch)  # also of a filler: all ranks run the same forwards
            self._loss_sum += self.sum_of_losses(logits_ML, batch.targets).double()
            ends = batch.cu_seqlens[1:]
            which_M = torch.searchsorted(ends, batch.target_positions.to(ends.dtype), right=True)
            documents = torch.tensor(batch.documents, dtype=torch.int64, device=which_M.device)
            self._seen.append((documents[which_M], batch.targets, logits_ML))

    def on_validation_epoch_end(self) -> None:
        columns = [torch.cat(column).cpu().numpy() for column in zip(*self._seen, strict=True)]
        self._seen = []
        found = dist.gather_arrays(
            dict(zip(("documents", "targets", "logits"), columns, strict=True)),
        )
        order = np.argsort(found["documents"], kind="stable")  # a document is whole on one rank, and in order
        documents, targets, logits_ML = (found[name][order] for name in ("documents", "targets", "logits"))
        if not len(documents):
            raise DataError(
                "the validation data have no label; give labelled examples, or data.validation=null"
            )
        if not np.isfinite(logits_ML).all():
            bad = len(np.unique(documents[~np.isfinite(logits_ML).all(1)]))
            raise CheckFailed(
                f"validation: the scores of {bad} examples are infinite or no numbers; the weights have diverged."
                " Lower optim.lr, or lengthen schedule.warmup_steps"
            )
        loss = dist.all_reduce_sum(self._loss_sum).item() / len(documents)
        scores = self.measures(documents, targets, logits_ML)
        found_here = {"val/loss": loss, **{f"val/{name}": value for name, value in scores.items()}}
        # Machines may differ in a last bit, and ranks must agree on which validation is best.
        self.validation = dist.from_rank_0(found_here)
