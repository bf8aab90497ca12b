"""Greedy and sampled generation over token ids, with a key-value cache; it knows nothing of text.

Shapes: B prompts, T prompt tokens, V vocab.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glm_train.model.cache import KeyValueCache


@torch.no_grad()
def generate(
    model: Any,
    input_ids: Tensor,
    max_new_tokens: int = 256,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    pad_token_id: int | None = None,
    attention_mask: Tensor | None = None,
    seed: int | None = None,
    streamer: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continue `input_ids` (B, T) until every row has made one of the stop ids, or `max_new_tokens` are made.

    Prompts of unequal length are padded on the left, with `attention_mask` (B, T) 0 on the padding. Stop ids default
    to `stop_ids(model)`; what follows a row's stop token is `pad_token_id`. With `do_sample` tokens are
    drawn after `temperature`, `top_k` and `top_p` (nucleus: Holtzman et al. 2020, arXiv 1904.09751), reproducibly for
    a given `seed`. `streamer`, where given, gets each step's tokens (B,). Returns prompt and continuation
    (B, T + new).
    """
    _check(input_ids, max_new_tokens, temperature, top_k, top_p)
    config, device = model.config, input_ids.device
    stop = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or stop_ids(model))
    stop_E = torch.tensor(stop, device=device, dtype=torch.long)
    pad = pad_token_id if pad_token_id is not None else (config.pad_token_id or 0)
    generator = torch.Generator(device).manual_seed(seed) if seed is not None else None
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    position_ids = (mask.long().cumsum(-1) - 1).clamp(min=0)
    cache = KeyValueCache(capacity=input_ids.shape[1] + min(max_new_tokens, 4096))  # it grows beyond
    done_B = torch.zeros(len(input_ids), dtype=torch.bool, device=device)
    ids, step_ids = [input_ids], input_ids
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            out = model(step_ids, mask, position_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            scores_BV = out.logits[:, -1].float()
            token_B = (
                _sample(scores_BV, temperature, top_k, top_p, generator)
                if do_sample
                else scores_BV.argmax(-1)
            )
            token_B = torch.where(done_B, pad, token_B)
            done_B = done_B | torch.isin(token_B, stop_E)
            step_ids = token_B[:, None]
            ids.append(step_ids)
            if streamer is not None:
                streamer(token_B)
            if bool(done_B.all()):
                break
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=-1)
            position_ids = position_ids[:, -1:] + 1
    finally:
        model.train(was_training)
    return torch.cat(ids, dim=-1)


def stop_ids(model: Any) -> list[int]:
    """The ids that end an answer: what generation_config.json says, else config.json."""
    stated = getattr(model, "generation_config", {}).get("eos_token_id")
    return (
        model.config.eos_token_ids
        if stated is None
        else [stated]
        if isinstance(stated, int)
        else list(stated)
    )


def _sample(
    scores_BV: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """One token a row from the softmax of the scores, cut to the top k and to the nucleus of mass p."""
    scores_BV = scores_BV / temperature
    if top_k is not None and top_k < scores_BV.shape[-1]:
        kth = scores_BV.topk(top_k, dim=-1).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < kth, -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, order = scores_BV.sort(dim=-1, descending=True)
        mass = ordered.softmax(-1)
        # A token stays while the mass before it is below p, so the first always does.
        outside = mass.cumsum(-1) - mass >= top_p
        scores_BV = scores_BV.masked_fill(outside.gather(-1, order.argsort(-1)), -torch.inf)
    return torch.multinomial(scores_BV.softmax(-1), 1, generator=generator)[:, 0]


def _check(
    ids: Tensor, max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ValueError(f"input_ids must be (batch, at least one token), found shape {tuple(ids.shape)}")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, found {max_new_tokens}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, found {temperature}; do_sample=False is greedy")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, found {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], found {top_p}")
