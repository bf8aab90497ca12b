"""Documents laid end to end in one row: the batch that the model trains on. There is no padding.

Two documents, `a b c` and `x y z`, of which `b c` and `y` are to be trained (labels are unshifted):

    row              a    b    c    x    y    z
    labels           -    b    c    -    y    -        - is -100
    position_ids     0    1    2    0    1    2        restart with each document
    cu_seqlens       0              3              6   where documents begin, and the end
    target_positions 0    1         3                  the token BEFORE each trained one, in its own document
    targets          b    c         y

The model's hidden state at position 0 predicts `b`, at 1 `c`, at 3 `y`. The first token of a document follows
nothing and is never a target, whatever its label: position 2 must not learn to predict `x`.

T tokens in the row, M targets, n documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from glm_train.data.store import IGNORE


def pack(
    examples: Sequence[tuple[np.ndarray, np.ndarray]], documents: Sequence[int], step_tokens: int
) -> PackedBatch:
    """Pack documents, each `(input_ids, labels)` of one length of at least 1, in the given order.

    `documents` are their indices in the store and `step_tokens` the trained tokens of the whole optimizer
    step; both are passed on.
    """
    lengths = [len(ids) for ids, _ in examples]
    if (
        not lengths
        or min(lengths) < 1
        or any(len(y) != n for (_, y), n in zip(examples, lengths, strict=True))
    ):
        raise ValueError("documents need at least one token each, and a label for every token")
    starts = np.cumsum([0, *lengths])
    input_ids = np.concatenate([ids for ids, _ in examples]).astype(np.int64)
    labels = np.concatenate([labels for _, labels in examples]).astype(np.int64)
    labels[starts[:-1]] = IGNORE
    trained = np.flatnonzero(labels != IGNORE)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(np.arange(len(input_ids)) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_seqlen=max(lengths),
        target_positions=torch.from_numpy(trained - 1),
        targets=torch.from_numpy(labels[trained]),
        step_tokens=step_tokens,
        documents=list(documents),
    )


@dataclass(frozen=True)
class PackedBatch:
    """One microbatch of packed documents; see the drawing above."""

    input_ids: Tensor  # (T,) int64
    position_ids: Tensor  # (T,) int64
    cu_seqlens: Tensor  # (n+1,) int32
    max_seqlen: int
    target_positions: Tensor  # (M,) int64, indices into the row
    targets: Tensor  # (M,) int64
    step_tokens: (
        int  # trained tokens of the whole optimizer step, over all ranks and microbatches; at least 1
    )
    documents: list[int]  # indices in the store; empty for a filler, which trains nothing

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The batch on another device."""
        moved = {
            name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self._tensors().items()
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> PackedBatch:
        """The batch in page-locked memory, from which copies to a GPU need not wait. Called by the loader."""
        return replace(self, **{name: t.pin_memory() for name, t in self._tensors().items()})  # type: ignore[arg-type]

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
