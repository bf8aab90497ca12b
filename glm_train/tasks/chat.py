"""Chat: next-token prediction on the trained tokens of packed conversations. M trained positions, H hidden, V vocab."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glm_train import dist
from glm_train.data.collate import PackedBatch
from glm_train.losses.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_metrics
from glm_train.model.heads import GlmForCausalLM
from glm_train.tasks.base import GlmTask


class ChatTask(GlmTask):
    """Fine-tunes a `GlmForCausalLM`. Only what predicts a trained token reaches the last MLP and the head."""

    model: GlmForCausalLM

    def loss(self, batch: PackedBatch, scale: float) -> Tensor:
        return linear_cross_entropy(
            self._hidden(batch), self.model.lm_head.weight, batch.targets, scale=scale
        )

    def on_validation_epoch_start(self) -> None:
        # loss sum, correct tokens, tokens: one tensor, so that ranks need one reduction
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def validation_step(self, microbatches: list[PackedBatch], _index: int) -> None:
        for batch in microbatches:
            hidden_MH, weight_VH = self._hidden(batch), self.model.lm_head.weight
            loss, correct = linear_cross_entropy_metrics(hidden_MH, weight_VH, batch.targets)
            count = torch.full_like(loss, len(batch.targets))
            self._sums += torch.stack((loss, correct.to(loss), count)).double()

    def on_validation_epoch_end(self) -> None:
        loss, correct, tokens = dist.all_reduce_sum(self._sums).tolist()
        mean = loss / max(tokens, 1)
        self.validation = {
            "val/loss": mean,
            "val/perplexity": math.exp(min(mean, 700)),
            "val/token_accuracy": correct / max(tokens, 1),
        }

    def _hidden(self, batch: PackedBatch) -> Tensor:
        """Hidden states (M, H) of the positions that predict a trained token."""
        return self.model.model.packed_hidden(
            batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.max_seqlen, batch.target_positions
        )
