"""Are the arguments of a forward what they must be? Told by name, before torch fails somewhere inside.

Values are looked at only where that waits for no GPU. The training step's way in (`packed_hidden`) has none of this.

Shapes: B rows, T new tokens, S past + T, H hidden, K kv heads, D head dim, n documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from glm_train.model.config import GlmConfig

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)


def check_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None, config: GlmConfig) -> None:
    """Exactly one of ids (B, T), below the vocabulary's size, and embeddings (B, T, H)."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("give exactly one of input_ids and inputs_embeds")
    if inputs_embeds is not None:
        _tensor("inputs_embeds", inputs_embeds)
        if not inputs_embeds.dtype.is_floating_point or inputs_embeds.ndim != 3:
            raise ValueError(
                _found("inputs_embeds", "floating point and (batch, tokens, hidden)", inputs_embeds)
            )
        if inputs_embeds.shape[-1] != config.hidden_size:
            raise ValueError(_found("inputs_embeds", f"{config.hidden_size} wide", inputs_embeds))
        return
    _tensor("input_ids", input_ids)
    assert input_ids is not None
    if input_ids.dtype not in (torch.int64, torch.int32) or input_ids.ndim != 2 or not input_ids.numel():
        raise ValueError(_found("input_ids", "whole numbers and (batch, tokens)", input_ids))
    if not input_ids.is_cuda and not input_ids.is_meta:
        low, high = (int(x) for x in input_ids.aminmax())
        if low < 0 or high >= config.vocab_size:
            raise ValueError(
                f"input_ids must be from 0 to {config.vocab_size - 1} (vocab_size {config.vocab_size});"
                f" found {low} to {high}"
            )


def check_attention_mask(mask: Tensor | None, rows: int, tokens: int, past: int) -> None:
    """(B, S) of ones and zeros, or a ready bool (B, 1, T, S)."""
    if mask is None:
        return
    _tensor("attention_mask", mask)
    keys = past + tokens
    if mask.ndim == 4:
        if mask.dtype != torch.bool or mask.shape[1:] != (1, tokens, keys) or mask.shape[0] not in (1, rows):
            raise ValueError(
                _found("a four-dimensional attention_mask", f"bool and ({rows}, 1, {tokens}, {keys})", mask)
            )
        return
    if mask.ndim != 2 or mask.shape[0] not in (1, rows) or mask.shape[1] != keys:
        raise ValueError(
            _found("attention_mask", f"({rows}, {keys}), for {past} cached and {tokens} new tokens", mask)
        )
    if not mask.is_cuda and not mask.is_meta and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("attention_mask must be 1 for real tokens and 0 for padding; found other values")


def check_positions(
    position_ids: Tensor | None, cache_position: Tensor | None, rows: int, tokens: int, past: int
) -> None:
    """`position_ids` (B or 1, T); `cache_position` (T,), counting on from the cache, because a cache only grows."""
    if position_ids is not None:
        _tensor("position_ids", position_ids)
        if position_ids.shape not in ((rows, tokens), (1, tokens)) or position_ids.dtype not in _WHOLE:
            raise ValueError(_found("position_ids", f"whole numbers and ({rows}, {tokens})", position_ids))
    if cache_position is not None:
        _tensor("cache_position", cache_position)
        expected = torch.arange(past, past + tokens, device=cache_position.device)
        if cache_position.shape != (tokens,) or not torch.equal(
            cache_position, expected.to(cache_position.dtype)
        ):
            raise ValueError(
                f"cache_position must count on from the {past} cached tokens: {past} to {past + tokens - 1};"
                f" found {_described(cache_position)}"
            )


def check_documents(cu_seqlens: Tensor | None, max_seqlen: int | None, tokens: int) -> None:
    """Edges (n + 1,) of documents: 0, rising, the row's length at the end."""
    if cu_seqlens is None:
        if max_seqlen is not None:
            raise ValueError("max_seqlen is for packed rows; give cu_seqlens too")
        return
    _tensor("cu_seqlens", cu_seqlens)
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(_found("cu_seqlens", "int32 and (documents + 1,)", cu_seqlens))
    if cu_seqlens.is_cuda and max_seqlen is not None:
        return  # values would have to be waited for
    edges = cu_seqlens.tolist()
    lengths = [b - a for a, b in pairwise(edges)]
    if edges[0] != 0 or edges[-1] != tokens or min(lengths) < 1:
        raise ValueError(f"cu_seqlens must rise from 0 to the row's {tokens} tokens; found {edges[:8]}")
    if max_seqlen is not None and max_seqlen < max(lengths):
        raise ValueError(f"max_seqlen is {max_seqlen}, but a document has {max(lengths)} tokens")


def check_cache(pairs: Any, new_BTH: Tensor, config: GlmConfig) -> None:
    """One pair of (B, K, past, D) keys and values a layer, all of one length; or none at all."""
    rows, layers = new_BTH.shape[0], config.num_hidden_layers
    if isinstance(pairs, Tensor | str) or not (hasattr(pairs, "__len__") and hasattr(pairs, "__getitem__")):
        raise TypeError(
            f"past_key_values must be a cache object or a tuple of pairs, found {type(pairs).__name__}"
        )
    if isinstance(pairs, dict):
        raise TypeError("past_key_values must be a cache object or a tuple of pairs, found dict")
    if len(pairs) not in (0, layers):
        raise ValueError(f"past_key_values has {len(pairs)} pairs; the model has {layers} layers")
    shapes = set()
    # Our own cache has equal layers, and is asked once a token.
    for pair in pairs if isinstance(pairs, Sequence) else [pairs[0]] if len(pairs) else []:
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(t, Tensor) for t in pair):
            raise TypeError("past_key_values: each layer must be a pair of tensors, keys and values")
        shapes |= {tuple(t.shape) for t in pair}
        if pair[0].dtype != pair[1].dtype or pair[0].dtype != pairs[0][0].dtype:
            raise ValueError("past_key_values must be of one dtype")
    kv_heads, head_dim = config.num_key_value_heads, config.head_dim
    expected = f"({rows}, {kv_heads}, past, {head_dim})"
    for shape in shapes:
        if len(shape) != 4 or (shape[0], shape[1], shape[3]) != (rows, kv_heads, head_dim):
            raise ValueError(f"past_key_values must hold {expected} tensors, found {shape}")
    if len(shapes) > 1:
        raise ValueError(f"past_key_values must be of one length, found {sorted(s[2] for s in shapes)}")


def check_classes(name: str, labels: Tensor, classes: int, ignored: int) -> None:
    """Whole numbers below `classes`, or `ignored`."""
    if labels.dtype not in _WHOLE:
        raise ValueError(_found(name, "whole numbers", labels))
    if labels.is_cuda or labels.is_meta or not labels.numel():
        return
    bad = (labels != ignored) & ((labels < 0) | (labels >= classes))
    if bool(bad.any()):
        raise ValueError(
            f"{name} must be from 0 to {classes - 1}, or {ignored} where there is none;"
            f" found {int(labels[bad][0])}"
        )


def _tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, found {type(value).__name__}")


def _found(name: str, expected: str, value: Tensor) -> str:
    return f"{name} must be {expected}; found {_described(value)}"


def _described(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
