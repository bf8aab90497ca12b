"""A batch of token rows: a mapping whose values are also attributes, as lists, NumPy arrays or torch tensors.

B batch, T tokens
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glm_train.errors import nearest

SIDES = ("left", "right")
_NO_PADDING = (False, "do_not_pad")
_PADDINGS = (True, "longest", "max_length", *_NO_PADDING)
_TRUNCATIONS = (True, "longest_first", "only_first", False, "do_not_truncate")


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


def pads(padding: bool | str) -> bool:
    """Whether `padding` asks for any. `ValueError` where it is no way to pad."""
    if padding not in _PADDINGS:
        hint = nearest(str(padding), [name for name in _PADDINGS if isinstance(name, str)])
        raise ValueError(f"padding is False, True, 'longest' or 'max_length', not {padding!r}.{hint}")
    return padding not in _NO_PADDING


def truncates(truncation: bool | str) -> bool:
    """Whether `truncation` asks for any. `ValueError` where it is no way to truncate one text."""
    if truncation not in _TRUNCATIONS:
        raise ValueError(f"truncation is True or False for one text, not {truncation!r}")
    return truncation in _TRUNCATIONS[:3]


def known_side(side: str, name: str) -> str:
    """`side`, or `ValueError` where it is neither `left` nor `right`. `name` is the setting's."""
    if side not in SIDES:
        raise ValueError(f"{name} is 'left' or 'right', not {side!r}")
    return side


def positive(name: str, value: int | None) -> int | None:
    """`value`, or `ValueError` where it is neither None nor an integer from 1 on."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} is a number of tokens from 1 on, not {value!r}")
    return value


def make_batch(
    rows: list[list[int]],
    *,
    padding: bool | str,
    limit: int | None,
    kind: str | None,
    single: bool,
    pad_id: int,
    side: str,
    multiple: int | None = None,
) -> TokenBatch:
    """The batch of `rows`, padded as `padding` says ("max_length": to `limit` tokens), as `kind` of tensors.
    `single`: there is one row, and without tensors the batch holds it bare. `ValueError` for options that
    contradict one another."""
    multiple = positive("pad_to_multiple_of", multiple)
    if not pads(padding):
        batch = TokenBatch(input_ids=rows, attention_mask=[[1] * len(row) for row in rows])
    else:
        if padding == "max_length" and limit is None:
            raise ValueError("padding='max_length' needs max_length: the folder sets no model_max_length")
        length = limit if padding == "max_length" else None
        batch = pad_rows(rows, length=length, pad_id=pad_id, side=side, multiple=multiple)
    if kind is not None:
        return as_tensors(batch, kind)
    return TokenBatch({key: value[0] for key, value in batch.items()}) if single else batch


def pad_rows(
    rows: list[list[int]], *, length: int | None, pad_id: int, side: str, multiple: int | None = None
) -> TokenBatch:
    """Pad to the longest row, or to `length` tokens where that is longer, and from there to a multiple of
    `multiple`. `side` is `left` or `right`.

    rows [5, 6, 7] and [8], side left  ->  input_ids       5 6 7    attention_mask  1 1 1
                                                           p p 8                    0 0 1
    """
    width = max([*(len(row) for row in rows), length or 0])
    if multiple is not None:
        width = -(-width // multiple) * multiple
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
