"""Scaled dot-product attention behind one function, for packed documents and for padded batches.

Which keys a query sees, for two documents `a b c | d e` packed in one row:

        a b c d e
    a   x                 causal inside a document, nothing across documents:
    b   x x               the same numbers as running each document alone
    c   x x x
    d         x
    e         x x

Grouped queries share KV heads; KV heads are never expanded.
Shapes: B batch, T queries, S keys, N heads, K kv heads, D head dim; packed rows have B = 1.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from glm_train.errors import ConfigError

BACKENDS = ("auto", "sdpa", "varlen", "flex")


@dataclass(frozen=True)
class PackedDocuments:
    """Documents end to end in one row: `cu_seqlens` (n+1,) int32 holds their edges, `max_seqlen` the longest."""

    cu_seqlens: Tensor
    max_seqlen: int
    backend: str = "auto"


@dataclass(frozen=True)
class PaddedBatch:
    """A rectangular batch. `allowed_B1TS` is True where a query sees a key; None means purely causal."""

    allowed_B1TS: Tensor | None = None
    is_causal: bool = True


Mask = PackedDocuments | PaddedBatch


def padded_mask(attention_mask_BS: Tensor | None, tokens: int, past: int) -> PaddedBatch:
    """The mask of a batch whose last `tokens` of `past + tokens` positions are queried.

    `attention_mask_BS` is 1 for real tokens. A padding query before the first real token sees nothing, and torch's
    attention gives it zeros, as transformers has it.
    """
    if attention_mask_BS is None or bool(attention_mask_BS.all()):
        if past == 0 or tokens == 1:
            return PaddedBatch(is_causal=tokens > 1)
        device = None if attention_mask_BS is None else attention_mask_BS.device
        return PaddedBatch(_causal(tokens, past, device)[None, None], is_causal=False)
    device = attention_mask_BS.device
    causal_TS = _causal(tokens, past, device)
    return PaddedBatch((causal_TS & attention_mask_BS[:, None, :].bool())[:, None], is_causal=False)


def _causal(tokens: int, past: int, device: torch.device | None) -> Tensor:
    return torch.ones(tokens, past + tokens, dtype=torch.bool, device=device).tril(past)


def attend(q_BTND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Mask, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(D)) v under `mask`; returns (B, T, N, D)."""
    if isinstance(mask, PackedDocuments):
        name = mask.backend
        if name == "auto":
            flash = q_BTND.is_cuda and q_BTND.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0
            name = "varlen" if flash else "sdpa"
        return _PACKED[name](q_BTND, k_BSKD, v_BSKD, mask, dropout)
    allowed = mask.allowed_B1TS
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


def _documents_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """One SDPA call a document: no mask tensor, no work across documents. The CPU's way."""
    lengths = mask.cu_seqlens.diff().tolist()
    causal = PaddedBatch()
    documents = zip(q.split(lengths, dim=1), k.split(lengths, dim=1), v.split(lengths, dim=1), strict=True)
    return torch.cat([attend(*document, causal, dropout) for document in documents], dim=1)


def _documents_varlen(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """FlashAttention over all documents in one call (CUDA, bf16 or fp16)."""
    if dropout or not q.is_cuda or q.dtype == torch.float32:
        raise ConfigError(
            "model.attention=varlen needs a CUDA device, bf16 and attention_dropout 0; use model.attention=sdpa"
        )
    edges, longest = mask.cu_seqlens, mask.max_seqlen
    return _varlen()(q[0], k[0], v[0], edges, edges, longest, longest)[None]


@functools.cache
def _varlen() -> Any:
    """`varlen_attn` made causal and grouped: torch 2.10 names those arguments differently from later releases."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    arguments: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "enable_gqa" in known:
        arguments["enable_gqa"] = True
    return functools.partial(varlen_attn, **arguments)


def _documents_flex(q: Tensor, k: Tensor, v: Tensor, mask: PackedDocuments, dropout: float) -> Tensor:
    """Flex attention with a block mask of documents: the fallback where varlen attention is missing."""
    from torch.nn.attention.flex_attention import create_block_mask

    if dropout:
        raise ConfigError("model.attention=flex has no attention dropout; use model.attention=sdpa")
    tokens, device = q.shape[1], q.device
    document_T = torch.bucketize(
        torch.arange(tokens, device=device), mask.cu_seqlens[1:].to(device), right=True
    )

    def same_document(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_T[query] == document_T[key])

    blocks = create_block_mask(same_document, None, None, tokens, tokens, device=str(device))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return _flex(device.type)(q, k, v, block_mask=blocks, enable_gqa=True).transpose(1, 2)


@functools.cache
def _flex(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention


_PACKED = {"sdpa": _documents_sdpa, "varlen": _documents_varlen, "flex": _documents_flex}
