"""The key-value cache of generation.

Worked example, one layer, a prompt of three tokens and then one token at a time; capacity doubles when full:

    update(k of 3 tokens)   keys = [p0 p1 p2 .]        length 3, capacity 4, returns p0 p1 p2
    update(k of 1 token)    keys = [p0 p1 p2 a]        length 4, capacity 4, returns p0 p1 p2 a
    update(k of 1 token)    keys = [p0 p1 p2 a b . . .]  length 5, capacity 8

Shapes: B batch, K kv heads, T new tokens, S tokens so far, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LegacyCache = Sequence[tuple[Tensor, Tensor]]


class KeyValueCache:
    """Keys and values of every layer, each stored (B, K, capacity, D) and given out as (B, K, S, D) views.

    Reads like the legacy tuple: `cache[i]` is layer i's `(keys, values)`, `len(cache)` the number of layers.
    With `capacity` (tokens) known ahead nothing is copied while it fills.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._stored: list[tuple[Tensor, Tensor]] = []
        self._lengths: list[int] = []

    @classmethod
    def from_legacy(cls, pairs: LegacyCache) -> KeyValueCache:
        """A cache that starts with the pairs of (B, K, S, D) tensors, one pair a layer."""
        cache = cls()
        for layer, (key, value) in enumerate(pairs):
            cache.update(key, value, layer)
        return cache

    def to_legacy(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """One `(keys, values)` pair a layer."""
        return tuple(self)

    def get_seq_length(self, layer: int = 0) -> int:
        """How many tokens are cached; 0 before the first forward."""
        return self._lengths[layer] if layer < len(self._lengths) else 0

    def update(self, key_BKTD: Tensor, value_BKTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append T tokens to a layer and return all S of them. The arguments stand as in transformers' caches."""
        start, added = self.get_seq_length(layer), key_BKTD.shape[2]
        end = start + added
        if layer == len(self._stored):
            room = max(self.capacity, end)
            self._stored.append((_room_like(key_BKTD, room), _room_like(value_BKTD, room)))
            self._lengths.append(0)
        elif end > self._stored[layer][0].shape[2]:
            room = max(end, 2 * start)
            self._stored[layer] = tuple(_grown(t, start, room) for t in self._stored[layer])  # type: ignore[assignment]
        keys, values = self._stored[layer]
        keys[:, :, start:end] = key_BKTD
        values[:, :, start:end] = value_BKTD
        self._lengths[layer] = end
        return keys[:, :, :end], values[:, :, :end]

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        (keys, values), length = self._stored[layer], self._lengths[layer]
        return keys[:, :, :length], values[:, :, :length]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[layer] for layer in range(len(self)))


def _room_like(tensor: Tensor, room: int) -> Tensor:
    B, K, _, D = tensor.shape
    return torch.empty(B, K, room, D, dtype=tensor.dtype, device=tensor.device)


def _grown(tensor: Tensor, used: int, room: int) -> Tensor:
    grown = _room_like(tensor, room)
    grown[:, :, :used] = tensor[:, :, :used]
    return grown
