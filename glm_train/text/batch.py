"""A batch of token rows: a mapping whose values are also attributes, as lists, NumPy arrays or torch tensors.

B batch, T tokens
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class TokenBatch(dict[str, Any]):
    """`input_ids` and `attention_mask` (1 = real token, 0 = padding), by key, by attribute, or as
    `**batch`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has {', '.join(self)}, not {name!r}") from None

    def to(self, device: Any) -> TokenBatch:
        """Move the tensors to `device`, in place, and return the batch. Lists and NumPy arrays stay as they
        are."""
        import torch

        for key, value in self.items():
            if isinstance(value, torch.Tensor):
                self[key] = value.to(device)
        return self


def pad_rows(rows: list[list[int]], *, length: int | None, pad_id: int, side: str) -> TokenBatch:
    """Pad to the longest row, or to `length` tokens where that is longer. `side` is `left` or `right`.

    rows [5, 6, 7] and [8], side left  ->  input_ids       5 6 7    attention_mask  1 1 1
                                                           p p 8                    0 0 1
    """
    width = max([*(len(row) for row in rows), length or 0])
    input_ids: list[list[int]] = []
    mask: list[list[int]] = []
    for row in rows:
        padding = [pad_id] * (width - len(row))
        zeros, ones = [0] * len(padding), [1] * len(row)
        input_ids.append(padding + row if side == "left" else row + padding)
        mask.append(zeros + ones if side == "left" else ones + zeros)
    return TokenBatch(input_ids=input_ids, attention_mask=mask)


def as_tensors(batch: TokenBatch, kind: str) -> TokenBatch:
    """The same batch with int64 (B, T) tensors: `kind` is `pt` (torch) or `np` (NumPy)."""
    widths = {len(row) for row in batch["input_ids"]}
    if len(widths) > 1:
        raise ValueError(f"rows of {min(widths)} to {max(widths)} tokens make no tensor; pass padding=True")
    make = _tensor_maker(kind)
    return TokenBatch({key: make(rows) for key, rows in batch.items()})


def _tensor_maker(kind: str) -> Callable[[list[list[int]]], Any]:
    if kind == "pt":
        import torch

        return lambda rows_BT: torch.tensor(rows_BT, dtype=torch.long)
    if kind == "np":
        import numpy

        return lambda rows_BT: numpy.array(rows_BT, dtype=numpy.int64)
    raise ValueError(f"return_tensors is 'pt' (torch), 'np' (NumPy) or None (lists), not {kind!r}")


def as_list(ids: Any) -> Any:
    """Lists and ints as they are; arrays and tensors, also inside a list, as lists of ints."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    if isinstance(ids, list | tuple):
        return [item.tolist() if hasattr(item, "tolist") else item for item in ids]
    return ids
