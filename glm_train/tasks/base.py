"""The training step that all tasks share.

One item of the loader is one optimizer step: a list of packed microbatches. The task runs them all, so the sum of the
losses is divided once, by the step's trained-token count from the plan, and accumulation is exact even for the short
last step of an epoch. (Lightning's own accumulation averages microbatches whatever their token counts are.)

The learning rate is a pure function of the step, so nothing of a schedule has to be saved or restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from glm_train import dist
from glm_train.data.collate import PackedBatch
from glm_train.losses.normalise import step_scale
from glm_train.optim.clip import clip_by_global_norm, refuse_non_finite
from glm_train.parallel.gradients import average_gradients, scale_down, sum_over_ranks
from glm_train.parallel.shard import last_microbatch, whole


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step produced. The tensors are on the device."""

    loss: Tensor  # mean over the trained tokens of the step, those of all ranks
    grad_norm: Tensor  # before clipping
    lr: float
    tokens: int  # of the step's microbatches over all ranks, trained or not


class GlmTask(LightningModule):
    """A model, its loss, its optimizer. Subclasses say what a microbatch's loss and validation measures are.

    `learning_rate(step)` gives the rate of the step that is about to run. `step` counts optimizer steps that are done,
    from the beginning of the run, also after a resume; `last` is what the newest of them produced.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        learning_rate: Callable[[int], float],
        clip_norm: float | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.step = 0
        self.last: StepResult | None = None
        self.validation: dict[str, float] = {}
        self.tables: list[str] = []  # what the newest validation has to print
        self._make_optimizer = optimizer
        self._learning_rate = learning_rate
        self._clip_norm = clip_norm

    def loss(self, batch: PackedBatch, scale: float) -> Tensor:
        """`scale` times the sum of the microbatch's token losses, fp32. With no labels: 0, attached to every weight."""
        raise TypeError(f"{type(self).__name__} does not say what its loss is")

    def transfer_batch_to_device(
        self, batch: Sequence[PackedBatch], device: torch.device, dataloader_idx: int
    ) -> list[PackedBatch]:
        return [microbatch.to(device, non_blocking=True) for microbatch in batch]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer(self.model)

    def training_step(self, microbatches: Sequence[PackedBatch], _index: int) -> None:
        optimizer: Any = self.optimizers()
        lr = self._learning_rate(self.step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)  # LoRA+ gives B a rate of its own
        losses = []
        for number, batch in enumerate(microbatches, start=1):
            last_microbatch(self.model, number == len(microbatches))
            loss = whole(self.model, self.loss, batch, step_scale(batch.step_tokens, dist.world_size()))
            self.manual_backward(loss)
            losses.append(loss.detach())
        average_gradients(self.model)
        own = torch.stack(losses).sum() / dist.world_size()
        own_tokens = sum(batch.input_ids.numel() for batch in microbatches if batch.documents)  # no fillers
        total, tokens, norm = sum_over_ranks(self.model, own, own_tokens)
        if norm is None:  # this rank has the whole gradient
            norm = clip_by_global_norm(self.model.parameters(), self._clip_norm)
        else:
            scale_down(self.model, norm, self._clip_norm)
        refuse_non_finite(
            total, norm, step=self.step + 1, documents=[d for b in microbatches for d in b.documents]
        )
        optimizer.step()
        optimizer.zero_grad()
        self.step += 1
        self.last = StepResult(total, norm, lr, tokens)
