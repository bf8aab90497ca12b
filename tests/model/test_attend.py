"""Attention behind one function: every backend against a loop over queries, packed and padded, and its dropout.

Shapes: B batch, T tokens, S keys, N heads, K kv heads, D head dim.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glm_train.errors import ConfigError
from glm_train.model.attend import PackedDocuments, PaddedBatch, attend, attend_eagerly, padded_mask
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.reference import edges
from support.tiny_models import SHAPE

LENGTHS = (5, 1, 7, 2)


def inputs(
    tokens: int, keys: int, heads: int = 6, kv_heads: int = 2, rows: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(rows, tokens, heads, 8, generator=draw)
    k, v = (torch.randn(rows, keys, kv_heads, 8, generator=draw) for _ in range(2))
    return q, k, v


def loop(q_BTND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Attention as the formula says it, one query at a time, in fp64. `seen` (B, T, S) must allow a key each."""
    B, T, N, D = q_BTND.shape
    group = N // k_BSKD.shape[2]
    out, weights = torch.zeros(B, T, N, D), torch.zeros(B, N, T, k_BSKD.shape[1])
    for b in range(B):
        for t in range(T):
            for n in range(N):
                keys = seen[b, t].nonzero()[:, 0]
                scores = k_BSKD[b, keys, n // group].double() @ q_BTND[b, t, n].double() / math.sqrt(D)
                share = (scores - scores.max()).exp()
                share = share / share.sum()
                weights[b, n, t, keys] = share.float()
                out[b, t, n] = (share @ v_BSKD[b, keys, n // group].double()).float()
    return out, weights


def documents(causal: bool) -> Tensor:
    blocks = [torch.ones(length, length, dtype=torch.bool) for length in LENGTHS]
    seen = torch.block_diag(*(block.tril() if causal else block for block in blocks)).bool()
    return seen[None]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("backend", "kv_heads"),
    [("auto", 2), ("flex", 2), *((name, k) for name in ("sdpa", "eager") for k in (1, 2, 6))],
)
def test_packed_documents_equal_a_loop_over_queries(backend: str, causal: bool, kv_heads: int) -> None:
    q, k, v = inputs(15, 15, kv_heads=kv_heads)
    expected, shares = loop(q, k, v, documents(causal))
    with torch.no_grad():  # flex attention has no backward on a CPU
        if backend == "eager":
            out, weights = attend_eagerly(q, k, v, PackedDocuments(edges(LENGTHS), 7, is_causal=causal))
            assert torch.allclose(weights, shares, atol=1e-6)
        else:
            out = attend(q, k, v, PackedDocuments(edges(LENGTHS), 7, backend, causal))
    assert out.shape == q.shape
    assert torch.allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("masked", [None, "left", "right"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_padded_batches_equal_a_loop_over_queries(
    tokens: int, masked: str | None, past: int, causal: bool, eager: bool
) -> None:
    keys = past + tokens
    q, k, v = inputs(tokens, keys, rows=3)
    mask = None if masked is None else torch.ones(3, keys, dtype=torch.long)
    if mask is not None and keys > 1:
        mask[1, : keys // 2] = 0
        mask[1] = mask[1] if masked == "left" else mask[1].flip(0)
    real = torch.ones(3, keys, dtype=torch.bool) if mask is None else mask.bool()
    order = torch.ones(tokens, keys, dtype=torch.bool)
    seen = (order.tril(past) if causal else order) & real[:, None]
    chosen = padded_mask(mask, tokens, past, causal=causal)
    out = attend_eagerly(q, k, v, chosen)[0] if eager else attend(q, k, v, chosen)
    sighted = seen.any(-1)  # a padding query before the first real token sees nothing, and nobody reads it
    expected, _ = loop(q, k, v, seen | ~sighted[..., None])  # whatever, where nothing is seen
    assert torch.allclose(out[sighted], expected[sighted], atol=2e-6)
    mean = (
        v.mean(1, keepdim=True).repeat_interleave(3, dim=2).expand_as(out)
    )  # transformers' eager path has it so
    assert torch.allclose(out[~sighted], (mean if eager else 0 * mean)[~sighted], atol=2e-6)


@pytest.mark.parametrize("eager", [False, True])
def test_queries_that_see_nothing_leave_finite_gradients(eager: bool) -> None:
    q, k, v = (x.requires_grad_() for x in inputs(5, 5, rows=2))
    mask = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]])
    chosen = padded_mask(mask, 5, 0)
    out = attend_eagerly(q, k, v, chosen)[0] if eager else attend(q, k, v, chosen)
    out[0, 3:].sum().backward()
    for tensor in (q, k, v):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad[1].abs().max() == 0
        assert tensor.grad[0, :3].abs().max() == 0


def test_a_batch_without_padding_needs_no_mask() -> None:
    """So that torch may take its fastest kernel."""
    ones = torch.ones(2, 6, dtype=torch.long)
    for mask in (None, ones):
        assert padded_mask(mask, 6, 0) == PaddedBatch(None, is_causal=True)
        assert padded_mask(mask, 6, 0, causal=False) == PaddedBatch(None, is_causal=False)
    assert padded_mask(ones, 1, 5) == PaddedBatch(None, is_causal=False)
    assert padded_mask(ones, 2, 4).allowed_B1TS is not None


def test_varlen_attention_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"use model\.attention=sdpa"):
        attend(*inputs(15, 15), PackedDocuments(edges(LENGTHS), 7, "varlen"))


def test_flex_attention_says_that_it_has_no_dropout() -> None:
    with pytest.raises(ConfigError, match="no attention dropout"):
        attend(*inputs(15, 15), PackedDocuments(edges(LENGTHS), 7, "flex"), dropout=0.1)


@pytest.mark.parametrize("packed", [True, False])
def test_dropout_drops_its_share_of_the_weights_and_scales_up_the_others(packed: bool) -> None:
    q, k, v = inputs(60, 60, heads=8, kv_heads=4)
    mask = PackedDocuments(edges((25, 35)), 35) if packed else PaddedBatch()
    _, whole = attend_eagerly(q, k, v, mask)
    torch.manual_seed(0)
    _, weights = attend_eagerly(q, k, v, mask, dropout=0.3)
    allowed, kept = whole > 0, weights > 0
    assert not (kept & ~allowed).any()
    share = kept[allowed].float().mean().item()  # of about 15,000 or 7,000
    assert abs(share - 0.7) < 0.03
    assert torch.allclose(weights[kept], whole[kept] / 0.7)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("eager", [True, False])
def test_dropout_leaves_the_mean_where_it_was(eager: bool, packed: bool) -> None:
    q, k, v = inputs(6, 6)
    mask = PackedDocuments(edges((2, 4)), 4) if packed else PaddedBatch()
    torch.manual_seed(0)
    way = (lambda *given: attend_eagerly(*given)[0]) if eager else attend
    draws = torch.stack([way(q, k, v, mask, 0.25) for _ in range(600)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert draws.std(0).mean() > 0.05
    assert ((draws.mean(0) - way(q, k, v, mask, 0.0)).abs() < 5 * error).all()


@pytest.mark.parametrize("attentions", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_the_model_drops_attention_in_training_only(packed: bool, attentions: bool) -> None:
    torch.manual_seed(0)
    model = GlmForCausalLM(GlmConfig(**SHAPE, attention_dropout=0.4))
    plain = GlmForCausalLM(GlmConfig(**SHAPE))
    plain.load_state_dict(model.state_dict())
    given = {"input_ids": torch.arange(15)[None], "output_attentions": attentions}
    given |= {"cu_seqlens": edges(LENGTHS)} if packed else {}
    with torch.no_grad():
        expected = plain.eval()(**given).logits
        assert torch.equal(model.eval()(**given).logits, expected)
        model.train()
        first, second = model(**given).logits, model(**given).logits
        torch.manual_seed(5)
        third = model(**given).logits
        torch.manual_seed(5)
        fourth = model(**given).logits
    assert (first - expected).abs().max() > 0.1
    assert (first - second).abs().max() > 0.1
    assert torch.equal(third, fourth)
