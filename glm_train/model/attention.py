"""Grouped-query self-attention with partly rotated heads (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from glm_train.model.attend import Mask, attend, attend_eagerly
from glm_train.model.config import GlmConfig
from glm_train.model.rotary import apply_rotary


class GlmAttention(nn.Module):
    """Query, key and value projections (with bias where the config says so), attention, output projection."""

    def __init__(self, config: GlmConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.dropout = config.attention_dropout
        width, kv_width = self.num_heads * config.head_dim, self.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def mix(
        self,
        x_BTH: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Mask,
        cache: Any = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """What each token gathers from the others, (B, T, N * D), before the output projection.

        `weights`, where given, gets the attention weights (B, N, T, S) appended.
        """
        q = self.q_proj(x_BTH).unflatten(-1, (self.num_heads, -1))
        k = self.k_proj(x_BTH).unflatten(-1, (self.num_kv_heads, -1))
        v = self.v_proj(x_BTH).unflatten(-1, (self.num_kv_heads, -1))
        q, k = apply_rotary(q, *rotary), apply_rotary(k, *rotary)
        if cache is not None:
            k, v = (x.transpose(1, 2) for x in cache.update(k.transpose(1, 2), v.transpose(1, 2), self.layer))
        dropout = self.dropout if self.training else 0.0
        if weights is None:
            return attend(q, k, v, mask, dropout).flatten(-2)
        mixed, seen_BNTS = attend_eagerly(q, k, v, mask, dropout)
        weights.append(seen_BNTS)
        return mixed.flatten(-2)
