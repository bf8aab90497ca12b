"""From the plan to the loader: a sampler of one rank's microbatches, and a dataset that packs them.

    DataLoader(PackedDataset(store), sampler=PlanSampler(...), batch_size=None, num_workers=any)

The sampler lives in the training process and the dataset in the workers, so that the order of microbatches
does not depend on the number of workers, and workers may outlive an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler

from glm_train.data.collate import PackedBatch, pack
from glm_train.data.plan import EpochPlan, Step, microbatches_for_rank
from glm_train.data.store import IGNORE, ExampleStore


def rank_share(step: Step, lengths: np.ndarray, rank: int, world_size: int) -> list[MicroBatch]:
    """One rank's microbatches of one step, as many as every other rank's.

    Where the step does not go round, the ranks left over run the step's shortest document once more as a
    filler: all ranks must take part in every forward and backward, and without targets it trains nothing.
    """
    share = microbatches_for_rank(step, rank, world_size)
    normaliser = max(step.trained, 1)
    if () not in share:
        return [MicroBatch(documents, normaliser) for documents in share]
    members = [document for microbatch in step.microbatches for document in microbatch]
    filler = min(members, key=lambda document: (lengths[document], document))
    return [MicroBatch(documents, normaliser, None if documents else filler) for documents in share]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What to pack: indices into the store, and the trained tokens of the whole step.

    `filler` is the document to run without targets where `documents` is empty.
    """

    documents: tuple[int, ...]
    step_tokens: int
    filler: int | None = None


class PackedDataset(Dataset[PackedBatch]):
    """Packs the documents of a `MicroBatch`, which is its index."""

    def __init__(self, store: ExampleStore) -> None:
        self._store = store

    def __getitem__(self, index: MicroBatch) -> PackedBatch:
        if index.filler is not None:
            input_ids, labels = self._store[index.filler]
            return pack([(input_ids, np.full_like(labels, IGNORE))], [], index.step_tokens)
        return pack([self._store[i] for i in index.documents], index.documents, index.step_tokens)


class PlanSampler(Sampler[MicroBatch]):
    """One rank's microbatches of the current epoch, from a place in it on.

    Args:
        plan: the plan of an epoch, by its number.
        lengths: tokens of each document.
        rank, world_size: whose share.

    The order is fixed when an iterator is made. `len()` is the whole epoch's, also where iteration starts in
    its middle, because a resumed loop counts what it has already done.
    """

    def __init__(
        self, plan: Callable[[int], EpochPlan], lengths: np.ndarray, *, rank: int, world_size: int
    ) -> None:
        self._plan, self._lengths = plan, lengths
        self._rank, self._world_size = rank, world_size
        self._start = (0, 0)
        self._epoch = 0
        self._planned: tuple[int, EpochPlan] | None = None

    def start(self, epoch: int, step: int) -> None:
        """Begin with this step of this epoch; later epochs begin with their first step."""
        self._start = (epoch, step)
        self._epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; the training loop calls it before each one."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[MicroBatch]:
        first = self._start[1] if self._epoch == self._start[0] else 0
        return self._microbatches(self._epoch_plan().steps[first:])

    def __len__(self) -> int:
        return sum(-(-len(step.microbatches) // self._world_size) for step in self._epoch_plan().steps)

    def _microbatches(self, steps: list[Step]) -> Iterator[MicroBatch]:
        for step in steps:
            yield from rank_share(step, self._lengths, self._rank, self._world_size)

    def _epoch_plan(self) -> EpochPlan:
        if self._planned is None or self._planned[0] != self._epoch:
            self._planned = (self._epoch, self._plan(self._epoch))
        return self._planned[1]
