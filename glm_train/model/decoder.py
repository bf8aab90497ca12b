"""The GLM decoder: embeddings, layers, final norm.

What is unusual about GLM: rotary embedding turns interleaved pairs on a part of each head only; gate and up projection
are one fused matrix; query, key and value may have a bias while no other projection does; GLM-4-0414 (`glm4`)
normalises the outputs of attention and MLP too ("sandwich" norms); the padding id's embedding gets no gradient.

Shapes: B batch, T tokens, H hidden, M kept positions. A packed row has B = 1 and T the tokens of all its documents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.model.attend import BACKENDS, Mask, PackedDocuments, padded_mask
from glm_train.model.attention import GlmAttention
from glm_train.model.cache import KeyValueCache
from glm_train.model.config import GlmConfig
from glm_train.model.inputs import (
    check_attention_mask,
    check_cache,
    check_documents,
    check_positions,
    check_tokens,
)
from glm_train.model.mlp import GlmMLP
from glm_train.model.norm import GlmRMSNorm
from glm_train.model.outputs import BaseModelOutput
from glm_train.model.resize import resize_token_embeddings
from glm_train.model.rotary import attention_scaling, inverse_frequencies, rotary_tables


class GlmDecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the stream; with sandwich norms, behind two."""

    def __init__(self, config: GlmConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = GlmAttention(config, layer)
        self.mlp = GlmMLP(config)
        self.input_layernorm = GlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = GlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.sandwich_norms:
            self.post_self_attn_layernorm = GlmRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_mlp_layernorm = GlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.sandwich_norms = config.sandwich_norms

    def forward(
        self,
        h_BTH: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Mask,
        keep_M: Tensor | None = None,
        *,
        cache: Any = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """The stream after this layer. With `keep_M` (positions in a packed row) only those positions go through the
        output projection and the MLP: in the last layer nothing reads the others. `attentions`, where given, gets the
        attention weights (B, N, T, S) appended. Returns (B, T or M, H)."""
        mixed = self.self_attn.mix(self.input_layernorm(h_BTH), rotary, mask, cache, attentions)
        if keep_M is not None:
            h_BTH, mixed = h_BTH.index_select(1, keep_M), mixed.index_select(1, keep_M)
        attended = self.self_attn.o_proj(mixed)
        h = h_BTH + (self.post_self_attn_layernorm(attended) if self.sandwich_norms else attended)
        fed = self.mlp(self.post_attention_layernorm(h))
        return h + (self.post_mlp_layernorm(fed) if self.sandwich_norms else fed)


class GlmModel(nn.Module):
    """The decoder without a head. `forward` returns hidden states; a head turns them into scores."""

    def __init__(self, config: GlmConfig) -> None:
        super().__init__()
        require_config(config)
        self.config = config
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.layers = nn.ModuleList(
            GlmDecoderLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = GlmRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention_backend = "auto"
        # Not a buffer: a model built on the meta device would be left without its values.
        self._inverse_frequencies = inverse_frequencies(config)
        init_weights(self, config.initializer_range)

    def set_attention(self, backend: str) -> None:
        """Choose how packed documents attend: `auto`, `sdpa`, `varlen` or `flex`."""
        if backend not in BACKENDS:
            raise ValueError(f"unknown attention backend {backend!r}; expected one of {', '.join(BACKENDS)}")
        self.attention_backend = backend

    def set_rope_theta(self, theta: float) -> None:
        """Change the base of the rotary angles, in the config too."""
        self.config.rope_theta = theta
        self._inverse_frequencies = inverse_frequencies(self.config)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed_tokens

    def set_input_embeddings(self, embeddings: nn.Embedding) -> None:
        self.embed_tokens = embeddings

    resize_token_embeddings = resize_token_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        *,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Hidden states (B, T, H) of `input_ids` (B, T) or `inputs_embeds` (B, T, H).

        `attention_mask` (B, past + T) is 1 for real tokens and 0 for padding, on either side; or bool (B, 1, T,
        past + T), True where a query sees a key. `position_ids` (B, T) count on from the cache where none are given.
        `cache_position` (T,) may say so too; other places it cannot name, because a cache only grows.
        `past_key_values` is a cache object (ours, or any with transformers' `update` and `get_seq_length`) or the
        legacy tuple, one pair a layer of (B, K, S, D), and comes back in the form it came in; where none was given,
        as the legacy tuple. `output_attentions` gives the weights of each layer, (B, N, T, S), by a slower path;
        `output_hidden_states` the stream before each layer and after the final norm. The switches default to the
        config's. `cu_seqlens` (n+1,) int32 makes the row a packed one: n documents end to end, each attending to
        itself only. A bidirectional model sees the whole document and has no cache.

        Raises `ValueError` or `TypeError` naming the argument that does not fit.
        """
        check_tokens(input_ids, inputs_embeds, self.config)
        h_BTH = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        rows, tokens = h_BTH.shape[:2]
        cache = self._open_cache(past_key_values, use_cache, h_BTH, packed=cu_seqlens is not None)
        past = cache.get_seq_length() if cache is not None else 0
        check_attention_mask(attention_mask, rows, tokens, past)
        check_positions(position_ids, cache_position, rows, tokens, past)
        check_documents(cu_seqlens, max_seqlen, tokens)
        mask: Mask
        if cu_seqlens is None:
            mask = padded_mask(attention_mask, tokens, past, causal=not self.config.bidirectional)
            default = torch.arange(past, past + tokens, device=h_BTH.device)[None]
        else:
            mask = self._packed(cu_seqlens, max_seqlen, rows, attention_mask)
            default = _restarting_positions(cu_seqlens, tokens)
        every = self._collector(output_hidden_states, "output_hidden_states")
        seen = self._collector(output_attentions, "output_attentions")
        positions_BT = default if position_ids is None else position_ids
        h_BTH = self._run(h_BTH, positions_BT, mask, cache=cache, every=every, seen=seen)
        output = BaseModelOutput(
            last_hidden_state=h_BTH,
            past_key_values=None if use_cache is False else _handed_back(cache, past_key_values),
            hidden_states=None if every is None else (*every, h_BTH),
            attentions=None if seen is None else tuple(seen),
        )
        return output if self._wanted(return_dict, "return_dict") else output.to_tuple()

    def _open_cache(self, given: Any, asked: bool | None, new_BTH: Tensor, *, packed: bool) -> Any:
        """The cache that this forward fills, if any."""
        if packed or self.config.bidirectional:
            if given is not None or asked:
                kind = "a packed row" if packed else "a bidirectional model"
                raise ValueError(
                    f"{kind} is read whole, and takes neither past_key_values nor use_cache=True"
                )
            return None
        if given is None:
            return KeyValueCache() if self._wanted(asked, "use_cache") else None
        if hasattr(given, "get_seq_length") and not isinstance(given, KeyValueCache):
            return _ForeignCache(given)
        check_cache(given, new_BTH, self.config)
        return given if isinstance(given, KeyValueCache) else KeyValueCache.from_legacy(given)

    def _collector(self, asked: bool | None, name: str) -> list[Tensor] | None:
        return [] if self._wanted(asked, name) else None

    def _wanted(self, asked: bool | None, name: str) -> bool:
        return getattr(self.config, name) if asked is None else asked

    def packed_hidden(
        self, input_ids_T: Tensor, position_ids_T: Tensor, cu_seqlens: Tensor, max_seqlen: int, keep_M: Tensor
    ) -> Tensor:
        """The training step's way in: normalised hidden states (M, H) at positions `keep_M` of one packed row."""
        mask = PackedDocuments(cu_seqlens, max_seqlen, self.attention_backend, not self.config.bidirectional)
        return self._run(self.embed_tokens(input_ids_T[None]), position_ids_T[None], mask, keep_M=keep_M)[0]

    def _run(
        self,
        h_BTH: Tensor,
        position_ids_BT: Tensor,
        mask: Mask,
        keep_M: Tensor | None = None,
        cache: Any = None,
        every: list[Tensor] | None = None,
        seen: list[Tensor] | None = None,
    ) -> Tensor:
        """All layers and the final norm. `every` and `seen`, where given, collect the stream before each layer and
        each layer's attention weights."""
        if h_BTH.is_meta:
            raise ValueError(
                "the model is on the meta device, without weights; fill it with load_weights first"
            )
        device = h_BTH.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else h_BTH.dtype
        rotary = rotary_tables(
            self._frequencies(h_BTH.device), position_ids_BT, dtype, attention_scaling(self.config)
        )
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            if every is not None:
                every.append(h_BTH)
            kept = keep_M if index == last else None
            h_BTH = layer(h_BTH, rotary, mask, kept, cache=cache, attentions=seen)
        return self.norm(h_BTH)

    def _frequencies(self, device: torch.device) -> Tensor:
        if self._inverse_frequencies.device != device:
            self._inverse_frequencies = inverse_frequencies(self.config).to(device)
        return self._inverse_frequencies

    def _packed(
        self, cu_seqlens: Tensor, max_seqlen: int | None, rows: int, attention_mask: object
    ) -> PackedDocuments:
        if rows != 1 or attention_mask is not None:
            raise ValueError("cu_seqlens takes one row of packed documents, without attention_mask")
        longest = int(cu_seqlens.diff().max()) if max_seqlen is None else max_seqlen
        return PackedDocuments(cu_seqlens, longest, self.attention_backend, not self.config.bidirectional)


class _ForeignCache:
    """A cache of transformers. One of fixed size gives out all its room, of which the filled part is wanted."""

    def __init__(self, cache: Any) -> None:
        self.cache, self._start = cache, int(cache.get_seq_length())

    def get_seq_length(self) -> int:
        return self._start

    def update(self, key_BKTD: Tensor, value_BKTD: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        end = self._start + key_BKTD.shape[2]
        keys, values = self.cache.update(key_BKTD, value_BKTD, layer)
        return keys[:, :, :end], values[:, :, :end]


def require_config(config: object) -> None:
    """A model is built from a `GlmConfig`, and read from a folder by `from_pretrained`."""
    if not isinstance(config, GlmConfig):
        kind = f"{type(config).__module__}.{type(config).__name__}"
        raise TypeError(
            f"expected a glm_train.GlmConfig, found {kind}; GlmConfig.from_dict reads a dict (config.to_dict()), and"
            " from_pretrained a folder or hub id"
        )


def init_weights(module: nn.Module, deviation: float) -> None:
    """Normal(0, deviation) for matrices and embeddings, 0 for biases and the padding row, 1 for norms."""
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=deviation)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
            if isinstance(part, nn.Embedding) and part.padding_idx is not None:
                with torch.no_grad():
                    part.weight[part.padding_idx].zero_()


def _handed_back(cache: Any, given: Any) -> Any:
    """The cache in the form that it came in; the legacy tuple where none was given."""
    if cache is None or cache is given:
        return cache
    return given if isinstance(cache, _ForeignCache) else tuple(cache)


def _restarting_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Positions of a packed row, counting from 0 in every document: edges [0, 3, 5] give [0 1 2 0 1]."""
    row = torch.arange(tokens, device=cu_seqlens.device)
    starts = torch.repeat_interleave(cu_seqlens[:-1].long(), cu_seqlens.diff().long())
    return (row - starts)[None]
