"""Each filter of the scores against transformers' own, and what is drawn against what should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glm_train.model.sampling import (
    Sampling,
    draw,
    filtered,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalised,
    seen_tokens,
)

V = 211


def scores(seed: int, rows: int = 5) -> Tensor:
    """Random scores with ties, a peaked row and a flat one."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(rows, V, generator=generator) * 4
    found[0, 10:20] = found[0].max()
    found[1] *= 10
    found[2] = 0.5
    return found


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours.isinf(), theirs.isinf())
    kept = ~theirs.isinf()
    assert kept.any(-1).all()
    assert (ours - theirs)[kept].abs().max() <= 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 50, V - 1])
def test_top_k(seed: int, k: int) -> None:
    from transformers import TopKLogitsWarper

    assert_same(keep_top_k(scores(seed), k), TopKLogitsWarper(k)(None, scores(seed)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.8, 0.95, 0.999])
def test_top_p(seed: int, p: float) -> None:
    from transformers import TopPLogitsWarper

    assert_same(keep_top_p(scores(seed), p), TopPLogitsWarper(p)(None, scores(seed)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_min_p(seed: int, share: float) -> None:
    from transformers import MinPLogitsWarper

    assert_same(keep_min_p(scores(seed), share), MinPLogitsWarper(share)(None, scores(seed)))


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 7.0])
def test_temperature(temperature: float) -> None:
    from transformers import TemperatureLogitsWarper

    ours = filtered(scores(0), Sampling(temperature=temperature, top_k=0))
    assert_same(ours, TemperatureLogitsWarper(temperature)(None, scores(0)))


@pytest.mark.parametrize("penalty", [0.5, 1.3, 5.0])
@pytest.mark.parametrize("padded", [False, True])
def test_repetition_penalty(penalty: float, padded: bool) -> None:
    """Padding on the left does not count, though its id is one that rows also hold, or never hold, as a real token."""
    from transformers import RepetitionPenaltyLogitsProcessor

    ids = torch.randint(1, V, (5, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row in range(5):
        ids[row, :row], mask[row, :row] = 0, 0
    ids[4, 11] = 0
    skipped = (mask != 0).int().argmax(dim=1) if padded else None
    theirs = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=skipped)(ids, scores(2))
    seen = seen_tokens(ids, mask if padded else None, V)
    assert_same(penalised(scores(2), seen, penalty), theirs)
    assert seen[:, 0].tolist() == (
        [False, False, False, False, True] if padded else [False, True, True, True, True]
    )


@pytest.mark.parametrize("seed", range(3))
def test_all_filters_stand_in_transformers_order(seed: int) -> None:
    """With top_p and min_p cutting further into what top_k left, another order would keep other tokens."""
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    theirs = LogitsProcessorList(
        [TemperatureLogitsWarper(2.5), TopKLogitsWarper(30), TopPLogitsWarper(0.7), MinPLogitsWarper(0.2)]
    )
    ours = filtered(scores(seed), Sampling(temperature=2.5, top_k=30, top_p=0.7, min_p=0.2))
    assert_same(ours, theirs(None, scores(seed)))


def test_nothing_is_filtered_unless_asked() -> None:
    assert torch.equal(filtered(scores(0), Sampling(top_k=0)), scores(0))
    assert torch.equal(filtered(scores(0), Sampling(top_k=V + 1)), scores(0))
    assert (filtered(torch.arange(V)[None].float(), Sampling()) > -torch.inf).sum() == 50


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=0),
        Sampling(temperature=0.5, top_k=0),
        Sampling(top_k=3),
        Sampling(top_k=0, top_p=0.75),
        Sampling(top_k=0, min_p=0.25),
        Sampling(temperature=2.0, top_k=5, top_p=0.8, min_p=0.1),
    ],
)
def test_tokens_are_drawn_as_often_as_they_are_likely(sampling: Sampling) -> None:
    """Chi-squared over 40,000 draws against probabilities worked out by hand; its mean is the degrees of freedom."""
    probability = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.03, 0.01], dtype=torch.float64)
    draws = 40_000
    found = draw(
        probability.log().float().repeat(draws, 1), sampling, torch.Generator().manual_seed(11)
    ).bincount(minlength=7)
    expected = by_hand(probability, sampling) * draws
    assert not found[expected == 0].any()
    kept = expected > 0
    freedom = int(kept.sum()) - 1
    chi_squared = ((found[kept] - expected[kept]) ** 2 / expected[kept]).sum().item()
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def by_hand(probability: Tensor, sampling: Sampling) -> Tensor:
    """The rule in words: raise to 1 / temperature; the k best; the fewest that reach mass p; those near the best."""
    share = probability ** (1 / sampling.temperature)
    share = share / share.sum()
    if sampling.top_k:
        share[sampling.top_k :] = 0  # the probabilities above are in order
        share = share / share.sum()
    if sampling.top_p < 1:
        count = next(n for n in range(1, 8) if share[:n].sum() >= sampling.top_p)
        share[count:] = 0
        share = share / share.sum()
    if sampling.min_p:
        share[share < sampling.min_p * share[0]] = 0
    return share / share.sum()
