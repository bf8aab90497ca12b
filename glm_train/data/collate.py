"""Documents laid end to end in one row: the batch that the model trains on. There is no padding.

Chat (`next_token`): two documents, `a b c` and `x y z`, of which `b c` and `y` are to be trained. Labels are unshifted.

    row              a    b    c    x    y    z
    labels           -    b    c    -    y    -        - is -100
    position_ids     0    1    2    0    1    2        restart with each document
    cu_seqlens       0              3              6   where documents begin, and the end
    target_positions 0    1         3                  the token BEFORE each trained one, in its own document
    targets          b    c         y

The model's hidden state at position 0 predicts `b`, at 1 `c`, at 3 `y`. The first token of a document follows
nothing and is never a target, whatever its label: position 2 must not learn to predict `x`.

Token classification (`own_token`): the labels are classes, the target of a token is its own, and nothing is left out.
Sequence classification: one target a document, read at its last token: a class (`document_classes`), a flag for each
label (`document_flags`), or k real numbers, whose bits the labels hold (`document_values`).

T tokens in the row, M targets, n documents, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from glm_train.data.store import IGNORE

Labels = Sequence[np.ndarray]
TargetRule = Callable[[Labels, np.ndarray], tuple[np.ndarray, np.ndarray]]


def next_token(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Chat: (M,) positions before the trained tokens, and these tokens. `starts` is (n+1,)."""
    row = _labels_of_tokens(labels, starts)
    row[starts[:-1]] = IGNORE
    trained = np.flatnonzero(row != IGNORE)
    return trained - 1, row[trained]


def own_token(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token classification: (M,) positions of the labelled tokens, and their classes."""
    row = _labels_of_tokens(labels, starts)
    labelled = np.flatnonzero(row != IGNORE)
    return labelled, row[labelled]


def document_classes(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One class a document: (M,) last positions, (M,) classes. A document whose label is -100 has no target."""
    positions, rows = _last_tokens(labels, starts)
    return positions, rows[:, 0].astype(np.int64)


def document_flags(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Several labels a document: (M,) last positions, (M, L) int64 of 0 and 1."""
    positions, rows = _last_tokens(labels, starts)
    return positions, rows.astype(np.int64)


def document_values(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regression: (M,) last positions, (M, k) float32. (The bits of -100 are no finite number.)"""
    positions, rows = _last_tokens(labels, starts)
    return positions, rows.view(np.float32)


def _labels_of_tokens(labels: Labels, starts: np.ndarray) -> np.ndarray:
    row = np.concatenate(labels).astype(np.int64)
    if len(row) != starts[-1] or any(len(y) != n for y, n in zip(labels, np.diff(starts), strict=True)):
        raise ValueError("documents need a label for every token")
    return row


def _last_tokens(labels: Labels, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.stack(labels).astype(np.int32)
    kept = rows[:, 0] != IGNORE
    return (starts[1:] - 1)[kept], rows[kept]


def pack(
    examples: Sequence[tuple[np.ndarray, np.ndarray]],
    documents: Sequence[int],
    step_tokens: int,
    rule: TargetRule = next_token,
) -> PackedBatch:
    """Pack documents, each `(input_ids, labels)` with at least one token, in the given order.

    `documents` are their indices in the store and `step_tokens` the targets of the whole optimizer step; both are
    passed on. `rule` is what a task makes of its labels.
    """
    lengths = [len(ids) for ids, _ in examples]
    if not lengths or min(lengths) < 1:
        raise ValueError("documents need at least one token each")
    starts = np.cumsum([0, *lengths])
    input_ids = np.concatenate([ids for ids, _ in examples]).astype(np.int64)
    positions, targets = rule([labels for _, labels in examples], starts)
    return PackedBatch(
        input_ids=torch.from_numpy(input_ids),
        position_ids=torch.from_numpy(np.arange(len(input_ids)) - np.repeat(starts[:-1], lengths)),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        max_seqlen=max(lengths),
        target_positions=torch.from_numpy(positions),
        targets=torch.from_numpy(np.ascontiguousarray(targets)),
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
    targets: Tensor  # (M,) int64; several labels: (M, L) int64; regression: (M, k) float32
    step_tokens: int  # targets of the whole optimizer step, over all ranks and microbatches; at least 1
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
