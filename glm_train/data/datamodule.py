"""Prepared examples for a Lightning trainer, with a place in the plan that is saved and resumed.

The trainer must be made with `use_distributed_sampler=False`: the plan already gives each rank its share.
Nothing here depends on how far the loader's workers have read ahead. The place is counted by the trainer's
own loop, in microbatches that were trained on.
"""

from __future__ import annotations

import hashlib
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from glm_train.data.collate import PackedBatch
from glm_train.data.plan import PLAN_VERSION, EpochPlan, count_microbatches, plan_epoch, plan_in_order
from glm_train.data.sampler import PackedDataset, PlanSampler
from glm_train.data.store import ExampleStore
from glm_train.errors import CheckpointError, ConfigError


class GlmDataModule(LightningDataModule):
    """Loaders of packed batches over prepared examples.

    Args:
        train, validation: prepared examples; None for no validation.
        seed: decides the order of each epoch.
        microbatches_per_step: of one optimizer step over all ranks: accumulation times world size.
        token_budget: tokens of one packed microbatch; or
        documents: a fixed number of documents a microbatch. Exactly one of the two.
        workers: loader processes of each rank; the batches do not depend on it.
        pin_memory: put batches into page-locked memory, for a GPU.

    Raises:
        DataError: a document is longer than the token budget.
    """

    def __init__(
        self,
        train: ExampleStore,
        validation: ExampleStore | None = None,
        *,
        seed: int,
        microbatches_per_step: int,
        token_budget: int | None = None,
        documents: int | None = None,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self._train, self._validation = train, validation
        self._seed, self._microbatches_per_step = seed, microbatches_per_step
        self._token_budget, self._documents = token_budget, documents
        self._workers, self._pin_memory = workers, pin_memory
        self._microbatches = count_microbatches(train.lengths, token_budget=token_budget, documents=documents)
        self._start = (0, 0)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of every epoch."""
        return -(-self._microbatches // self._microbatches_per_step)

    def total_steps(self, max_epochs: int | None, max_steps: int | None) -> int:
        """Optimizer steps of the whole run: whichever limit comes first. None and -1 mean no limit.

        Raises:
            ConfigError: there is no limit.
        """
        limits = [] if max_steps in (None, -1) else [max_steps]
        if max_epochs not in (None, -1):
            limits.append(max_epochs * self.steps_per_epoch)
        if not limits:
            raise ConfigError("trainer.max_steps and trainer.max_epochs are both null. Set one of them.")
        return min(limits)

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

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """This rank's microbatches, from the resumed place on."""
        rank, world_size = self._rank_and_world_size()
        if self._microbatches_per_step % world_size:
            raise ConfigError(
                f"{self._microbatches_per_step} microbatches a step cannot be shared evenly by"
                f" {world_size} processes. Choose a number that the processes divide."
            )
        sampler = PlanSampler(self.plan, self._train.lengths, rank=rank, world_size=world_size)
        sampler.start(*self._start)
        return self._loader(self._train, sampler)

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """This rank's microbatches of the validation examples, in file order.

        All of validation counts as one step: `step_tokens` is its trained tokens over all ranks.
        """
        if self._validation is None:
            return []
        rank, world_size = self._rank_and_world_size()
        lengths, trained = self._validation.lengths, self._validation.trained
        plan = plan_in_order(lengths, trained, token_budget=self._token_budget, documents=self._documents)
        sampler = PlanSampler(lambda epoch: plan, lengths, rank=rank, world_size=world_size)
        return self._loader(self._validation, sampler)

    def state_dict(self) -> dict[str, Any]:
        """The place in the plan, {epoch, step}, and a fingerprint of the plan that it is a place in."""
        epoch, step = self._place()
        return {"epoch": epoch, "step": step, "plan": self._fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved place. Must be called before the training loader is made.

        Raises:
            CheckpointError: the place belongs to a plan over other data or other batch settings.
        """
        if state_dict["plan"] != self._fingerprint():
            raise CheckpointError(
                "the saved place belongs to other training data or batch settings (seed, batch.tokens,"
                " batch.documents, microbatches per step), so it cannot be found again."
                " Resume with the same ones, or start a new run from the saved model."
            )
        self._start = self._normalised(state_dict["epoch"], state_dict["step"])

    def teardown(self, stage: str) -> None:
        """A later fit with the same module starts from the beginning again."""
        if stage == "fit":
            self._start = (0, 0)

    def _loader(self, store: ExampleStore, sampler: PlanSampler) -> DataLoader[PackedBatch]:
        return DataLoader(
            PackedDataset(store),
            sampler=sampler,
            batch_size=None,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._pin_memory,
        )

    def _place(self) -> tuple[int, int]:
        """The next optimizer step to run.

        Counted from all microbatches that the trainer has processed since the first epoch. Its counters of
        epochs will not do: when `max_steps` ends a run in the middle of an epoch, they count it as done.
        """
        if self.trainer is None:
            return self._start
        _, world_size = self._rank_and_world_size()
        per_epoch = self._rank_microbatches(world_size)
        done: int = vars(self.trainer.fit_loop.epoch_loop.batch_progress.total)["processed"]
        epoch, microbatch = divmod(done, per_epoch)
        return self._normalised(epoch, microbatch // (self._microbatches_per_step // world_size))

    def _rank_microbatches(self, world_size: int) -> int:
        """Microbatches of one rank in every epoch, fillers included."""
        full, rest = divmod(self._microbatches, self._microbatches_per_step)
        return full * (self._microbatches_per_step // world_size) + -(-rest // world_size)

    def _normalised(self, epoch: int, step: int) -> tuple[int, int]:
        """The end of an epoch is the beginning of the next."""
        return (epoch, step) if step < self.steps_per_epoch else (epoch + 1, 0)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _fingerprint(self) -> str:
        """A hash of all that decides the plan of any epoch."""
        settings = (
            PLAN_VERSION,
            self._seed,
            self._microbatches_per_step,
            self._token_budget,
            self._documents,
        )
        digest = hashlib.sha256(repr(settings).encode())
        for counts in (self._train.lengths, self._train.trained):
            digest.update(counts.astype("<i4").tobytes())
        return digest.hexdigest()[:32]
