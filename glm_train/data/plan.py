"""The plan of an epoch: which documents form a microbatch, and which microbatches an optimizer step.

A plan is a pure function of the documents' lengths and trained-token counts, the seed, the epoch and the
batch settings. No process, clock or communication takes part, so that every rank computes the same plan,
a position in it is two numbers (epoch, step), and the loss of a step can be divided by its exact global count
of trained tokens before the step begins.

Six documents of 5, 3, 2, 2, 1, 1 tokens under a budget of 7, two microbatches a step:

    longest first, each into the fullest microbatch that it still fits:
        [5 2]  [3 2 1 1]                         7 and 7 tokens: no room is lost
    one step of two microbatches; a third microbatch would start the next step.

Every epoch has the same number of microbatches and steps. Longest-first packing makes this so: how full the
microbatches get depends on the lengths alone, so that only documents of equal length trade places between
epochs (the shuffle decides which), and the microbatches themselves are dealt into steps anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np

from glm_train.errors import DataError

PLAN_VERSION = 1  # part of the saved position: a plan made by other rules is another plan

# The document length at which attention costs as much as all matrices of a layer together: in GLM-4-9B
# 2 * 204e6 FLOP a token for the matrices and 2 * l * 4096 for causal attention over l tokens.
ATTENTION_TOKENS = 50_000


def plan_epoch(
    lengths: np.ndarray,
    trained: np.ndarray,
    *,
    seed: int,
    epoch: int,
    microbatches_per_step: int,
    token_budget: int | None = None,
    documents: int | None = None,
) -> EpochPlan:
    """The optimizer steps of one epoch, every document exactly once.

    Args:
        lengths: tokens of each document, (n,) integers of at least 1.
        trained: trained tokens of each document, (n,) integers.
        microbatches_per_step: over all ranks together; the last step alone may have fewer.
        token_budget: pack documents into microbatches of at most so many tokens; or
        documents: so many documents a microbatch, whatever their length. Exactly one of the two.

    Within a step the microbatches stand by falling cost, so that those which run at the same time on
    several ranks cost alike. Every step trains at least one token.

    Raises:
        DataError: a document is longer than the budget, or too few microbatches have anything to train.
    """
    lengths, trained = _checked(lengths, trained, token_budget, documents)
    shuffled = shuffled_indices(len(lengths), seed, epoch, stream=0)
    if token_budget is not None:
        order = shuffled[_longest_first(lengths[shuffled])]
        microbatches = _best_fit(order, lengths, token_budget)
    else:
        assert documents is not None
        microbatches = _chunks(shuffled, documents)
    dealt = [microbatches[i] for i in shuffled_indices(len(microbatches), seed, epoch, stream=1)]
    counts, costs = _sums(dealt, trained, lengths * ATTENTION_TOKENS + lengths**2)
    _give_each_step_something(dealt, counts, costs, microbatches_per_step)
    by_cost = np.lexsort((-costs, np.arange(len(dealt)) // microbatches_per_step)).tolist()
    ordered = [dealt[i] for i in by_cost]
    firsts = range(0, len(dealt), microbatches_per_step)
    totals = np.add.reduceat(counts, firsts).tolist() if firsts else []
    steps = [
        Step(tuple(ordered[first : first + microbatches_per_step]), total)
        for first, total in zip(firsts, totals, strict=True)
    ]
    return EpochPlan(epoch, steps)


def plan_in_order(
    lengths: np.ndarray, trained: np.ndarray, *, token_budget: int | None = None, documents: int | None = None
) -> EpochPlan:
    """Documents in file order, as one step: the plan of validation.

    Under a token budget a microbatch ends where the next document does not fit.

    Raises:
        DataError: a document is longer than the budget.
    """
    lengths, trained = _checked(lengths, trained, token_budget, documents)
    if documents is not None:
        microbatches = _chunks(np.arange(len(lengths)), documents)
    else:
        assert token_budget is not None
        microbatches = _next_fit(lengths, token_budget)
    return EpochPlan(0, [Step(tuple(microbatches), int(trained.sum()))] if microbatches else [])


def count_microbatches(
    lengths: np.ndarray, *, token_budget: int | None = None, documents: int | None = None
) -> int:
    """How many microbatches every epoch has; the same for each."""
    lengths, _ = _checked(lengths, lengths, token_budget, documents)
    if documents is not None:
        return -(-len(lengths) // documents)
    assert token_budget is not None
    return len(_best_fit(_longest_first(lengths), lengths, token_budget))


def microbatches_for_rank(step: Step, rank: int, world_size: int) -> list[tuple[int, ...]]:
    """The share of one rank: as many microbatches on every rank, in the order of running.

    Rank r takes every `world_size`-th microbatch from the r-th on, so that each moment's microbatches are
    neighbours in cost. Where the last step does not go round, the ranks without one get an empty tuple.
    """
    rounds = -(-len(step.microbatches) // world_size)
    share = list(step.microbatches[rank::world_size])
    return share + [()] * (rounds - len(share))


def shuffled_indices(n: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """A permutation of 0..n-1 that is the same on every machine, numpy version and number of processes.

    The order of raw generator words: the words of PCG64 are fixed for all time by numpy's compatibility
    promise, the output of `Generator.permutation` is not.
    """
    words = np.random.PCG64(np.random.SeedSequence([seed, epoch, stream])).random_raw(n)
    return np.argsort(words, kind="stable")


def _longest_first(lengths: np.ndarray) -> np.ndarray:
    """The order of falling length; equal ones stay in theirs. Numbers of 16 bits are sorted in linear time."""
    shorter_by = lengths.max(initial=0) - lengths
    return np.argsort(
        shorter_by.astype(np.uint16) if shorter_by.max(initial=0) < 2**16 else shorter_by, kind="stable"
    )


def _best_fit(order: np.ndarray, lengths: np.ndarray, budget: int) -> list[tuple[int, ...]]:
    """Best-fit bin packing of documents in the given order (falling length).

    Bit s of `sizes` says that some open bin has s free tokens; the best fit for a document of l tokens is
    the lowest set bit from l up, found in one shift. A bin found so stays the best fit for further documents
    of the same length until it is full, and after it the other bins of its size, so that runs of equal
    length are placed together. Smaller gaps than the shortest document are forgotten. Documents of more than
    half the budget, which come first, have a bin each.
    """
    documents, sorted_lengths = order.tolist(), lengths[order]
    smallest = int(sorted_lengths[-1]) if documents else 0
    runs = [0, *(np.flatnonzero(np.diff(sorted_lengths)) + 1).tolist(), len(documents)]
    large = int(np.count_nonzero(2 * sorted_lengths > budget))
    bins = [[document] for document in documents[:large]]
    open_bins: dict[int, list[int]] = {}
    sizes = 0
    for at, end in pairwise(runs if documents else []):
        length = int(sorted_lengths[at])
        if at < large:
            if (rest := budget - length) >= smallest:
                open_bins[rest] = list(range(at, end))
                sizes |= 1 << rest
            continue
        while at < end:
            if fitting := sizes >> length:
                free = length + (fitting & -fitting).bit_length() - 1
                candidates = open_bins[free]
            else:
                free, candidates = budget, [len(bins)]
                bins.append([])
            fits = free // length
            while candidates and at < end:
                index = candidates.pop()
                if fits == 1:
                    taken = 1
                    bins[index].append(documents[at])
                else:
                    taken = min(fits, end - at)
                    bins[index] += documents[at : at + taken]
                at += taken
                if (rest := free - taken * length) >= smallest:
                    open_bins.setdefault(rest, []).append(index)
                    sizes |= 1 << rest
            if not candidates:
                sizes &= ~(1 << free)
    return [tuple(members) for members in bins]


def _next_fit(lengths: np.ndarray, budget: int) -> list[tuple[int, ...]]:
    microbatches: list[tuple[int, ...]] = []
    first, used = 0, 0
    for document, length in enumerate(lengths.tolist()):
        if used + length > budget:
            microbatches.append(tuple(range(first, document)))
            first, used = document, 0
        used += length
    return [*microbatches, tuple(range(first, len(lengths)))] if len(lengths) else []


def _chunks(order: np.ndarray, size: int) -> list[tuple[int, ...]]:
    return [tuple(order[i : i + size].tolist()) for i in range(0, len(order), size)]


def _sums(microbatches: list[tuple[int, ...]], *values: np.ndarray) -> list[np.ndarray]:
    """The sums of each of `values` over the documents of each microbatch."""
    if not microbatches:
        return [array[:0] for array in values]
    starts = np.cumsum([0, *map(len, microbatches[:-1])])
    members = np.fromiter(chain.from_iterable(microbatches), dtype=np.int64)
    return [np.add.reduceat(array[members], starts) for array in values]


def _give_each_step_something(
    dealt: list[tuple[int, ...]], counts: np.ndarray, costs: np.ndarray, per_step: int
) -> None:
    """Exchange microbatches between steps, in place, until no step is without trained tokens."""
    if counts.all():
        return
    steps = [range(i, min(i + per_step, len(dealt))) for i in range(0, len(dealt), per_step)]
    spare = [i for members in steps for i in [i for i in members if counts[i]][1:]]
    for members in steps:
        if any(counts[i] for i in members):
            continue
        if not spare:
            raise DataError(
                f"{np.count_nonzero(counts)} of {len(counts)} microbatches have a token to train, too few for"
                f" {len(steps)} optimizer steps. Remove documents without any, or raise batch.accumulate."
            )
        giver, taker = spare.pop(), members[0]
        dealt[giver], dealt[taker] = dealt[taker], dealt[giver]
        for sums in (counts, costs):
            sums[giver], sums[taker] = sums[taker], sums[giver]


def _checked(
    lengths: np.ndarray, trained: np.ndarray, token_budget: int | None, documents: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The arguments as int64 arrays, refused where no plan can be made of them."""
    lengths, trained = np.asarray(lengths, dtype=np.int64), np.asarray(trained, dtype=np.int64)
    if (token_budget is None) == (documents is None):
        raise ValueError("give exactly one of token_budget and documents")
    if lengths.shape != trained.shape or lengths.ndim != 1 or (len(lengths) and lengths.min() < 1):
        raise ValueError("lengths and trained must be (n,) arrays, lengths at least 1")
    if (token_budget or documents or 0) < 1:
        raise ValueError("token_budget and documents must be at least 1")
    if token_budget is not None and len(lengths) and (longest := int(lengths.max())) > token_budget:
        over = int((lengths > token_budget).sum())
        raise DataError(
            f"{over} documents are longer than batch.tokens={token_budget}; the longest has {longest} tokens."
            f" Set batch.tokens={longest} or more, or data.max_length={token_budget} or less."
        )
    return lengths, trained


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step: its microbatches, tuples of document indices, and their trained tokens."""

    microbatches: tuple[tuple[int, ...], ...]
    trained: int


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """The optimizer steps of one epoch, in order of running."""

    epoch: int
    steps: list[Step]

    def __len__(self) -> int:
        return len(self.steps)
