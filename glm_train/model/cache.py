"""The key-value cache of generation.

One layer of a cache made with `capacity=7`, a prompt of three tokens and then one token at a time:

    update(k of 3 tokens)   stored  p0 p1 p2 .  .  .  .    returns a view of p0 p1 p2
    update(k of 1 token)    stored  p0 p1 p2 a  .  .  .    returns a view of p0 p1 p2 a; nothing is copied

Without a capacity the first tensors are kept as they are, for most forwards never append; the first append copies them
into exactly what is needed, and only the appends that follow are given room to spare.

Shapes: B batch, K kv heads, T new tokens, S tokens so far, D head dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

LegacyCache = Sequence[tuple[Tensor, Tensor]]

# Tokens of room made at once: a long capacity that is never used costs no memory.
_LEAST_ROOM, _CAPACITY_STEP = 64, 1024


class KeyValueCache:
    """Keys and values of every layer, given out as (B, K, S, D) views.

    Reads like the legacy tuple: `cache[i]` is layer i's `(keys, values)`, `len(cache)` the number of layers.
    `capacity` is the number of tokens that it will hold at most, where that is known ahead.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self._layers: list[_Layer] = []

    @classmethod
    def from_legacy(cls, pairs: LegacyCache) -> KeyValueCache:
        """A cache that starts with the pairs of (B, K, S, D) tensors, one pair a layer, and never writes into them."""
        cache = cls()
        for layer, (key, value) in enumerate(pairs):
            if key.ndim != 4 or value.ndim != 4 or key.shape[:3] != value.shape[:3]:
                raise ValueError(
                    f"past_key_values, layer {layer}: keys and values must be (batch, kv heads, tokens, head_dim), "
                    f"found {tuple(key.shape)} and {tuple(value.shape)}"
                )
            cache.update(key, value, layer)
        return cache

    def to_legacy(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """One `(keys, values)` pair a layer, not copied."""
        return tuple(self)

    def get_seq_length(self, layer: int = 0) -> int:
        """How many tokens are cached; 0 before the first forward."""
        return self._layers[layer].length if layer < len(self._layers) else 0

    def update(self, key_BKTD: Tensor, value_BKTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Append T tokens to a layer and return all S of them. The arguments stand as in transformers' caches.

        Gradients reach every token: while they are recorded nothing is written into a tensor that was given out.
        """
        if layer < len(self._layers):
            return self._layers[layer].append(key_BKTD, value_BKTD, self.capacity)
        if layer > len(self._layers):
            raise IndexError(
                f"layer {layer} before layer {len(self._layers)}: layers fill the cache in order"
            )
        kept = _Layer(key_BKTD, value_BKTD)
        self._layers.append(kept)
        if self.capacity > kept.length and not torch.is_grad_enabled():
            kept.move(_room(kept.length, self.capacity))
        return kept.filled()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row `repeats` times, one after the other: rows a b become a a b b."""
        for layer in self._layers:
            keys, values = layer.filled()
            layer.keep(keys.repeat_interleave(repeats, dim=0), values.repeat_interleave(repeats, dim=0))

    def reorder_cache(self, rows_B: Tensor) -> None:
        """Row i becomes what row `rows_B[i]` was."""
        for layer in self._layers:
            layer.keep(*(stored.index_select(0, rows_B.to(stored.device)) for stored in layer.filled()))

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._layers[layer].filled()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (layer.filled() for layer in self._layers)


class _Layer:
    """Keys and values of one layer: `length` tokens, and room after them that is written into only where it is ours."""

    __slots__ = ("_keys", "_spare", "_values", "length")

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.keep(key, value)

    def keep(self, key: Tensor, value: Tensor) -> None:
        """Hold exactly these tensors, without copying them."""
        self._keys, self._values, self.length = key, value, key.shape[2]
        self._spare = False  # whether an append that finds no room makes some to spare

    def filled(self) -> tuple[Tensor, Tensor]:
        return self._keys.narrow(2, 0, self.length), self._values.narrow(2, 0, self.length)

    def append(self, key: Tensor, value: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        start, end = self.length, self.length + key.shape[2]
        if key.shape[0] != self._keys.shape[0] or key.dtype != self._keys.dtype:
            held, new = (
                f"{t.shape[0]} rows of {str(t.dtype).removeprefix('torch.')}" for t in (self._keys, key)
            )
            raise ValueError(f"past_key_values holds {held}, this forward has {new}")
        if torch.is_grad_enabled():
            keys, values = self.filled()
            self.keep(torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2))
            return self._keys, self._values
        if end > self._keys.shape[2] or (self._keys.is_inference() and not torch.is_inference_mode_enabled()):
            self.move(_room(end, capacity) if self._spare or capacity > end else end)
        self._keys.narrow(2, start, end - start).copy_(key)
        self._values.narrow(2, start, end - start).copy_(value)
        self.length = end
        return self.filled()

    def move(self, room: int) -> None:
        """Copy what is held into new tensors of `room` tokens."""
        self._keys, self._values = (
            _moved(stored, room, self.length) for stored in (self._keys, self._values)
        )
        self._spare = True


def _room(tokens: int, capacity: int) -> int:
    """Tokens to make room for when `tokens` are needed: a quarter more, so that a long answer is copied only a few
    times in all, and never more than the capacity where that is known and enough."""
    if capacity < tokens:
        return tokens + max(_LEAST_ROOM, tokens // 4)
    return min(capacity, tokens + max(_CAPACITY_STEP, tokens // 4))


def _moved(stored: Tensor, room: int, used: int) -> Tensor:
    B, K, _, D = stored.shape
    moved = stored.new_empty(B, K, room, D)
    moved.narrow(2, 0, used).copy_(stored.narrow(2, 0, used))
    return moved
