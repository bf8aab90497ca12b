"""From the plan to the loader: a sampler that hands out one rank's optimizer steps, and a dataset that packs them.

    PackedLoader(PackedDataset(store), sampler=StepSampler(...), batch_size=None, num_workers=any)

The sampler lives in the training process and the dataset in the workers, so that the order of steps does not
depend on the number of workers. A run is one long pass through the plans of all its epochs: its place is one
number, the steps that are done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from glm_train.data.collate import PackedBatch, TargetRule, next_token, pack
from glm_train.data.plan import EpochPlan, Step, microbatches_for_rank
from glm_train.data.store import IGNORE, ExampleStore
from glm_train.errors import DataError


def rank_share(step: Step, lengths: np.ndarray, rank: int, world_size: int) -> RankStep:
    """One rank's microbatches of one step, as many as every other rank's.

    Where the step does not go round, the ranks left over run the step's shortest document once more as a
    filler: all ranks must take part in every forward and backward, and without targets it trains nothing.
    """
    share = tuple(microbatches_for_rank(step, rank, world_size))
    if () not in share:
        return RankStep(share, max(step.trained, 1))
    members = [document for microbatch in step.microbatches for document in microbatch]
    filler = min(members, key=lambda document: (lengths[document], document))
    return RankStep(share, max(step.trained, 1), filler)


@dataclass(frozen=True, slots=True)
class RankStep:
    """What to pack for one optimizer step of one rank: microbatches of indices into the store.

    `trained` is the trained tokens of the whole step, over all ranks. `filler` is the document to run without
    targets in the place of an empty microbatch.
    """

    microbatches: tuple[tuple[int, ...], ...]
    trained: int
    filler: int | None = None


class PackedDataset(Dataset[list[PackedBatch] | DataError]):
    """Packs the microbatches of a `RankStep`, which is its index.

    In a loader worker a DataError is returned, not raised: `DataLoader` would bury its message under the worker's
    traceback. `PackedLoader` raises it.
    """

    def __init__(self, store: ExampleStore, rule: TargetRule = next_token) -> None:
        self._store, self._rule = store, rule

    def __getitem__(self, index: RankStep) -> list[PackedBatch] | DataError:
        try:
            return [self._pack(documents, index) for documents in index.microbatches]
        except DataError as error:
            if get_worker_info() is None:
                raise
            return error

    def _pack(self, documents: tuple[int, ...], index: RankStep) -> PackedBatch:
        if documents:
            return pack([self._store[i] for i in documents], documents, index.trained, self._rule)
        assert index.filler is not None
        input_ids, labels = self._store[index.filler]
        return pack([(input_ids, np.full_like(labels, IGNORE))], [], index.trained, self._rule)


class PackedLoader(DataLoader[Any]):
    """A loader of a `PackedDataset`, which raises the faults of its workers as they are."""

    def __iter__(self) -> Iterator[list[PackedBatch]]:  # type: ignore[override]
        for item in super().__iter__():
            if isinstance(item, DataError):
                raise item
            yield item


class StepSampler(Sampler[RankStep]):
    """One rank's steps `first_step` up to, not including, `last_step` of a run through all epochs.

    Args:
        plan: the plan of an epoch, by its number; every epoch has `steps_per_epoch` steps.
        lengths: tokens of each document.
        rank, world_size: whose share.
    """

    def __init__(
        self,
        plan: Callable[[int], EpochPlan],
        lengths: np.ndarray,
        *,
        steps_per_epoch: int,
        first_step: int,
        last_step: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._plan, self._lengths = plan, lengths
        self._steps_per_epoch = steps_per_epoch
        self._first, self._last = first_step, last_step
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[RankStep]:
        epoch, plan = -1, EpochPlan(-1, [])
        for step in range(self._first, self._last):
            if step // self._steps_per_epoch != epoch:
                epoch = step // self._steps_per_epoch
                plan = self._plan(epoch)
            yield rank_share(
                plan.steps[step % self._steps_per_epoch], self._lengths, self._rank, self._world_size
            )

    def __len__(self) -> int:
        return max(self._last - self._first, 0)
