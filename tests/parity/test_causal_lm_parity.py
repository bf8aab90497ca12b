"""Ours against transformers on tiny random weights: logits, loss, every gradient; padded either side, and packed."""

from __future__ import annotations

import pytest
import torch

from support.reference import pair, relative
from support.tiny_models import VARIANTS
from support.tolerances import GRADIENT, LOGITS, LOSS

LENGTHS = (11, 6, 9)


def batch(side: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and labels of three ragged rows; ids include the padding id as a real token."""
    generator = torch.Generator().manual_seed(3)
    width = max(LENGTHS)
    ids = torch.randint(0, 97, (len(LENGTHS), width), generator=generator)
    ids[:, width // 2] = 5
    mask = torch.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        mask[row, slice(0, length) if side == "right" else slice(width - length, width)] = 1
    labels = torch.where(mask.bool(), ids, -100)
    labels[0, 3:6] = -100
    return torch.where(mask.bool(), ids, 5), mask, labels


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_transformers(variant: str, side: str) -> None:
    ours, reference = pair(variant)
    ids, mask, labels = batch(side)
    out = ours(ids, attention_mask=mask, labels=labels)
    expected = reference(input_ids=ids, attention_mask=mask, labels=labels)
    assert (out.logits - expected.logits).abs().max() <= LOGITS * max(1, expected.logits.abs().max())
    assert abs(out.loss.item() - expected.loss.item()) <= LOSS * max(1, expected.loss.item())
    out.loss.backward()
    expected.loss.backward()
    theirs = gradients(reference)
    for name, gradient in gradients(ours).items():
        assert relative(gradient, theirs[name]) <= GRADIENT, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_row_equals_its_documents_run_alone(variant: str) -> None:
    ours, reference = pair(variant)
    ids, _, labels = batch("right")
    rows = [(ids[r, :n], labels[r, :n]) for r, n in enumerate(LENGTHS)]
    edges = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    packed = ours(
        torch.cat([i for i, _ in rows])[None], labels=torch.cat([y for _, y in rows])[None], cu_seqlens=edges
    )
    packed.loss.backward()
    alone = [reference(input_ids=i[None], labels=y[None]) for i, y in rows]
    counts = torch.tensor([(y[1:] != -100).sum() for _, y in rows])
    loss = (torch.stack([a.loss for a in alone]) * counts).sum() / counts.sum()
    loss.backward()
    expected = torch.cat([a.logits[0] for a in alone])
    assert (packed.logits[0] - expected).abs().max() <= LOGITS * max(1, expected.abs().max())
    assert abs(packed.loss.item() - loss.item()) <= LOSS * max(1, loss.item())
    theirs = gradients(reference)
    for name, gradient in gradients(ours).items():
        assert relative(gradient, theirs[name]) <= GRADIENT, name


@pytest.mark.parametrize("variant", ["glm", "glm4-gqa4-nobias"])
def test_the_training_path_equals_the_documented_forward(variant: str) -> None:
    """Keeping positions before the last layer's MLP changes no number, forward or backward."""
    ours, _ = pair(variant)
    ids, _, _ = batch("right")
    row, edges = ids.flatten()[:22], torch.tensor([0, 11, 22], dtype=torch.int32)
    keep = torch.tensor([2, 3, 9, 12, 20])
    whole = ours.model(row[None], cu_seqlens=edges).last_hidden_state[0, keep]
    whole.square().sum().backward()
    expected = gradients(ours)
    ours.zero_grad()
    positions = torch.arange(22) % 11
    kept = ours.model.packed_hidden(row, positions, edges, 11, keep)
    kept.square().sum().backward()
    assert (kept - whole).abs().max() <= LOGITS
    for name, gradient in gradients(ours).items():
        if expected[name] is not None:
            assert relative(gradient, expected[name]) <= GRADIENT, name


def test_the_padding_row_gets_no_gradient_but_the_heads_row_does() -> None:
    ours, _ = pair("glm")
    ids, mask, labels = batch("right")
    assert (ids[mask.bool()] == 5).any()
    ours(ids, attention_mask=mask, labels=labels).loss.backward()
    assert ours.model.embed_tokens.weight.grad[5].abs().max() == 0
    assert ours.lm_head.weight.grad[5].abs().max() > 0


@pytest.mark.parametrize("variant", ["glm", "glm4", "glm-edge"])
def test_greedy_generation_equals_transformers_on_ragged_prompts(variant: str) -> None:
    ours, reference = pair(variant)
    ids, mask, _ = batch("left")
    ours_ids = ours.generate(ids, attention_mask=mask, max_new_tokens=24)
    theirs = reference.generate(input_ids=ids, attention_mask=mask, max_new_tokens=24, do_sample=False)
    assert ours_ids.tolist() == theirs.tolist()
