"""Prepared examples for a Lightning trainer: the steps of the run that are still to do.

The trainer must be made with `use_distributed_sampler=False`: the plan already gives each rank its share.
Lightning sees the run as one epoch, so that none of its own rules about restarting inside an epoch apply.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from glm_train import dist
from glm_train.data.collate import PackedBatch, TargetRule, next_token
from glm_train.data.plan import EpochPlan, plan_epoch, plan_in_order
from glm_train.data.sampler import PackedDataset, PackedLoader, RankStep, StepSampler, rank_share
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError


class GlmDataModule(LightningDataModule):
    """Loaders over prepared examples; one item is one optimizer step, a list of packed microbatches.

    Args:
        train, validation: prepared examples; None for no validation.
        seed: decides the order of each epoch.
        microbatches_per_step: of one optimizer step over all ranks: accumulation times world size.
        steps_per_epoch, total_steps: of the whole run.
        start_step: optimizer steps that are done.
        token_budget: tokens of one packed microbatch; or
        documents: a fixed number of documents a microbatch. Exactly one of the two.
        validation_tokens: tokens of one packed microbatch of validation.
        workers: loader processes of each rank; the batches do not depend on it.
        pin_memory: put batches into page-locked memory, for a GPU.
        rule: what the task makes of its labels: a function of `collate.py`.
    """

    def __init__(
        self,
        train: ExampleStore,
        validation: ExampleStore | None = None,
        *,
        seed: int,
        microbatches_per_step: int,
        steps_per_epoch: int,
        total_steps: int,
        start_step: int = 0,
        token_budget: int | None = None,
        documents: int | None = None,
        validation_tokens: int,
        workers: int = 0,
        pin_memory: bool = False,
        rule: TargetRule = next_token,
    ) -> None:
        super().__init__()
        self._train, self._validation = train, validation
        self._seed, self._microbatches_per_step = seed, microbatches_per_step
        self._steps_per_epoch, self._total_steps, self._start_step = steps_per_epoch, total_steps, start_step
        self._token_budget, self._documents = token_budget, documents
        self._validation_tokens = validation_tokens
        self._workers, self._pin_memory, self._rule = workers, pin_memory, rule

    def plan(self, epoch: int) -> EpochPlan:
        """The plan of one training epoch, over all ranks."""
        return plan_epoch(
            self._train.lengths,
            self._train.trained,
            seed=self._seed,
            epoch=epoch,
            microbatches_per_step=self._microbatches_per_step,
            token_budget=self._token_budget,
            documents=self._documents,
        )

    def train_dataloader(self) -> DataLoader[list[PackedBatch]]:
        """This rank's share of the steps that are still to do."""
        world_size = dist.world_size()
        if self._microbatches_per_step % world_size:
            raise ConfigError(
                f"{self._microbatches_per_step} microbatches a step cannot be shared evenly by {world_size} processes."
                " Choose a number that the processes divide."
            )
        sampler = StepSampler(
            self.plan,
            self._train.lengths,
            steps_per_epoch=self._steps_per_epoch,
            first_step=self._start_step,
            last_step=self._total_steps,
            rank=dist.rank(),
            world_size=world_size,
        )
        return self._loader(self._train, sampler)

    def val_dataloader(self) -> DataLoader[list[PackedBatch]] | list[Any]:
        """This rank's share of the validation examples, in file order, a microbatch an item."""
        if self._validation is None:
            return []
        lengths, trained = self._validation.lengths, self._validation.trained
        plan = plan_in_order(lengths, trained, token_budget=self._validation_tokens)
        share = rank_share(plan.steps[0], lengths, dist.rank(), dist.world_size())
        items = [RankStep((microbatch,), share.trained, share.filler) for microbatch in share.microbatches]
        return self._loader(self._validation, items)

    def _loader(
        self, store: ExampleStore, sampler: Sampler[RankStep] | list[RankStep]
    ) -> DataLoader[list[PackedBatch]]:
        return PackedLoader(
            PackedDataset(store, self._rule),
            sampler=sampler,
            batch_size=None,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._pin_memory,
            # A loader without its own generator draws a seed from the global one at each start, and a resumed
            # run starts more often than one that never stopped.
            generator=torch.Generator(),
        )
