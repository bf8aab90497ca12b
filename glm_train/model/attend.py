"""Scaled dot-product attention behind one function, for packed documents and for padded batches.

Which keys a query sees, for two documents `a b c | d e` packed in one row:

        a b c d e
    a   x                 causal inside a document, nothing across documents:
    b   x x               the same numbers as running each document alone
    c   x x x
    d         x
    e         x x

A bidirectional model has every x inside a document. Grouped queries share KV heads; KV heads are never expanded.
Shapes: B batch, T queries, S keys, N heads, K kv heads, D head dim; packed rows have B = 1.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from glm_train.errors import ConfigError

BACKENDS = ("auto", "sdpa", "varlen", "flex")


@dataclass(frozen=True)
class PackedDocuments:
    """Documents end to end in one row: `cu_seqlens` (n+1,) int32 holds their edges, `max_seqlen` the longest."""

    cu_seqlens: Tensor
    max_seqlen: int
    backend: str = "auto"
    is_causal: bool = True


@dataclass(frozen=True)
class PaddedBatch:
    """A rectangular batch. `allowed_B1TS` is True where a query sees a key; None leaves it to `is_causal`."""

    allowed_B1TS: Tensor | None = None
    is_causal: bool = True


Mask = PackedDocuments | PaddedBatch


def padded_mask(attention_mask: Tensor | None, tokens: int, past: int, *, causal: bool = True) -> PaddedBatch:
    """The mask of a batch whose last `tokens` of `past + tokens` positions are queried.

    `attention_mask` is (B, S) with 1 for real tokens, or a ready (B, 1, T, S) that is True where a query sees a key.
    A padding query before the first real token sees nothing, and torch's attention gives it zeros, as transformers
    has it.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return PaddedBatch(attention_mask, is_causal=False)
    padded = attention_mask is not None and not bool(attention_mask.all())
    if not padded and (not causal or past == 0 or tokens == 1):
        return PaddedBatch(is_causal=causal and tokens > 1)
    seen: Tensor | None = None
    if causal:
        device = None if attention_mask is None else attention_mask.device
        seen = torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)[None, None]
    if padded and attention_mask is not None:
        real = attention_mask[:, None, None, :].bool()
        seen = real if seen is None else seen & real
    return PaddedBatch(seen, is_causal=False)


def attend(q_BTND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Mask, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under `mask`; returns (B, T, N, D)."""
    if isinstance(mask, PackedDocuments):
        name = mask.backend
        if name == "auto":
            flash = q_BTND.is_cuda and q_BTND.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0
            name = "varlen" if flash else "sdpa"
        return _PACKED[name](q_BTND, k_BSKD, v_BSKD, mask, dropout)
    allowed = mask.allowed_B1TS
    if q_BTND.shape[1] == 1 and q_BTND.shape[2] != k_BSKD.shape[2] and not mask.is_causal:
        return _one_query(q_BTND, k_BSKD, v_BSKD, allowed, dropout)
    out_BNTD = scaled_dot_product_attention(
        q_BTND.transpose(1, 2),
        k_BSKD.transpose(1, 2),
        v_BSKD.transpose(1, 2),
        attn_mask=None if allowed is None else allowed.to(q_BTND.device),
        dropout_p=dropout,
        is_causal=mask.is_causal,
        enable_gqa=q_BTND.shape[2] != k_BSKD.shape[2],
    )
    return out_BNTD.transpose(1, 2)


def _one_query(
    q_B1ND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, allowed_B11S: Tensor | None, dropout: float
) -> Tensor:
    """A step of generation: the queries that share a KV head stand in for a row of tokens, which is two to three times
    as fast as torch's own grouping."""
    (B, _, N, D), K = q_B1ND.shape, k_BSKD.shape[2]
    out_BKGD = scaled_dot_product_attention(
        q_B1ND.reshape(B, K, N // K, D),
        k_BSKD.transpose(1, 2),
        v_BSKD.transpose(1, 2),
        attn_mask=None if allowed_B11S is None else allowed_B11S.to(q_B1ND.device),
        dropout_p=dropout,
    )
    return out_BKGD.reshape(B, 1, N, D)


def attend_eagerly(
    q_BTND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Mask, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """As `attend`, with the attention weights (B, N, T, S) beside the result: for whoever wants to look at them.

    Softmax is in fp32, as in transformers' eager path, which also spreads a query that sees nothing over all keys.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BTND, k_BSKD, v_BSKD))
    groups, kv_heads = q.shape[1] // k.shape[1], k.shape[1]
    scores_BKGTS = q.unflatten(1, (kv_heads, groups)) @ k.unsqueeze(2).mT * q.shape[-1] ** -0.5
    allowed = _allowed(mask, q.shape[2], k.shape[2], q.device)
    blocked = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(~allowed, torch.finfo(q.dtype).min)
    scores_BNTS = scores_BKGTS.flatten(1, 2) + blocked
    weights = scores_BNTS.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    weights = nn.functional.dropout(weights, dropout)
    mixed = weights.unflatten(1, (kv_heads, groups)) @ v.unsqueeze(2)
    return mixed.flatten(1, 2).transpose(1, 2), weights


def _allowed(mask: Mask, tokens: int, keys: int, device: torch.device) -> Tensor:
    """True where a query sees a key, in a shape that broadcasts to (B, N, T, S)."""
    if isinstance(mask, PaddedBatch) and mask.allowed_B1TS is not None:
        return mask.allowed_B1TS.to(device)
    allowed = torch.ones(tokens, keys, dtype=torch.bool, device=device)
    if mask.is_causal:
        allowed = allowed.tril(keys - tokens)
    if isinstance(mask, PackedDocuments):
        document_T = _document_of_each_token(mask.cu_seqlens.to(device), tokens)
        allowed = allowed & (document_T[:, None] == document_T)
    return allowed


def _document_of_each_token(cu_seqlens: Tensor, tokens: int) -> Tensor:
    return torch.bucketize(torch.arange(tokens, device=cu_seqlens.device), cu_seqlens[1:], right=True)


def _documents_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """One SDPA call a document: no mask tensor, no work across documents. The CPU's way."""
    lengths = mask.cu_seqlens.diff().tolist()
    alone = PaddedBatch(is_causal=mask.is_causal)
    documents = zip(q.split(lengths, dim=1), k.split(lengths, dim=1), v.split(lengths, dim=1), strict=True)
    return torch.cat([attend(*document, alone, dropout) for document in documents], dim=1)


def _documents_varlen(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """FlashAttention over all documents in one call (CUDA, bf16 or fp16)."""
    if dropout or not q.is_cuda or q.dtype == torch.float32:
        raise ConfigError(
            "model.attention=varlen needs a CUDA device, bf16 and attention_dropout 0; use model.attention=sdpa"
        )
    edges, longest = mask.cu_seqlens, mask.max_seqlen
    return _varlen(mask.is_causal)(q[0], k[0], v[0], edges, edges, longest, longest)[None]


@functools.cache
def _varlen(causal: bool) -> Any:
    """`varlen_attn` with its arguments set: torch 2.10 names them differently from later releases."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    arguments: dict[str, Any] = (
        {"window_size": (-1, 0 if causal else -1)} if "window_size" in known else {"is_causal": causal}
    )
    if "enable_gqa" in known:
        arguments["enable_gqa"] = True
    return functools.partial(varlen_attn, **arguments)


def _documents_flex(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """Flex attention with a block mask of documents: the fallback where varlen attention is missing."""
    from torch.nn.attention.flex_attention import create_block_mask

    if dropout:
        raise ConfigError("model.attention=flex has no attention dropout; use model.attention=sdpa")
    tokens, device = q.shape[1], q.device
    document_T = _document_of_each_token(mask.cu_seqlens.to(device), tokens)
    causal = mask.is_causal

    def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = document_T[query] == document_T[key]
        return same & (query >= key) if causal else same

    blocks = create_block_mask(same_document, None, None, tokens, tokens, device=str(device))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return _flex(device.type)(q, k, v, block_mask=blocks, enable_gqa=True).transpose(1, 2)


@functools.cache
def _flex(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention


_PACKED = {"sdpa": _documents_sdpa, "varlen": _documents_varlen, "flex": _documents_flex}
