"""However a step is cut into ranks and microbatches, it has one gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glm_train.losses.linear_cross_entropy import linear_cross_entropy
from glm_train.losses.normalise import step_scale
from support.tolerances import ACCUMULATION

HIDDEN, VOCAB = 16, 53
LENGTHS = (1, 9, 0, 4, 30, 2, 7, 5)  # trained tokens of eight documents; one has none


def _documents() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(n, HIDDEN, generator=generator),
            torch.randint(0, VOCAB, (n,), generator=generator),
        )
        for n in LENGTHS
    ]


def _step(world: int, accumulate: int, *, fold: bool) -> tuple[float, Tensor, Tensor]:
    """Loss and gradients of one step, the eight documents dealt out in order: what each rank does, then the average."""
    documents = _documents()
    body = torch.linspace(-1, 1, HIDDEN * HIDDEN).view(HIDDEN, HIDDEN).requires_grad_()
    head = torch.linspace(-1, 1, VOCAB * HIDDEN).sin().view(VOCAB, HIDDEN).requires_grad_()
    size = len(documents) // (world * accumulate)
    shares = [documents[i : i + size] for i in range(0, len(documents), size)]
    total = 0.0
    for rank in range(world):
        for share in shares[rank * accumulate : (rank + 1) * accumulate]:
            hidden = torch.cat([h for h, _ in share]) @ body
            targets = torch.cat([t for _, t in share])
            if fold:
                scale = step_scale(sum(LENGTHS), world)
                loss = linear_cross_entropy(hidden, head, targets, scale=scale)
            else:
                loss = linear_cross_entropy(hidden, head, targets) * step_scale(sum(LENGTHS), world)
            loss.backward()
            total += loss.item()
    return total / world, body.grad / world, head.grad / world


@pytest.mark.parametrize("fold", [False, True], ids=["after", "folded"])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_any_split_has_the_gradient_of_the_whole(accumulate: int, world: int, fold: bool) -> None:
    """1x8, 2x4, 4x2 and 8x1 (microbatches x documents), on one rank and on two."""
    loss, *gradients = _step(world, accumulate, fold=fold)
    whole_loss, *whole = _step(1, 1, fold=False)
    assert loss == pytest.approx(whole_loss, rel=1e-6)
    for gradient, expected in zip(gradients, whole, strict=True):
        assert (gradient - expected).abs().max() <= ACCUMULATION * expected.abs().max()


def test_one_document_a_microbatch_has_the_gradient_of_the_whole() -> None:
    for gradient, expected in zip(_step(1, 8, fold=False)[1:], _step(1, 1, fold=False)[1:], strict=True):
        assert (gradient - expected).abs().max() <= ACCUMULATION * expected.abs().max()


def test_the_worked_example_of_the_docstring() -> None:
    short, long = torch.tensor(1.0 + 2 * 2), torch.tensor(5.0 * 3)
    assert ((short + long) * step_scale(8, 1)).item() == 2.5
    assert (short * step_scale(8, 1) + long * step_scale(8, 1)).item() == 2.5
    assert (short * step_scale(8, 2) + long * step_scale(8, 2)).item() / 2 == 2.5


def test_a_step_without_trained_tokens_is_zero_not_nan() -> None:
    assert (torch.tensor(0.0) * step_scale(0, 4)).item() == 0.0
