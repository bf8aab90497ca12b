"""The causal language model against transformers on tiny random weights: outputs, loss and every gradient.

Every argument of the documented forward, padded on either side, and packed. Shapes: B batch, T tokens.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.reference import (
    LENGTHS,
    assert_close,
    assert_parity,
    assert_same_gradients,
    edges,
    pair,
    ragged_batch,
    relative,
)
from support.tiny_models import VARIANTS
from support.tolerances import ATTENTION, GRADIENT, LOGITS, LOSS

IDS, MASK = ragged_batch("right")
LABELS = torch.where(MASK.bool(), IDS, -100)
LABELS[0, 3:6] = -100
CHOSEN = torch.tensor([7, 2, 10])

#: What both forwards are called with; where transformers' differs, the second dict says by what.
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ids alone": ({}, {}),
    "labels": ({"labels": LABELS}, {}),
    "no label is trained but one": ({"labels": torch.full_like(IDS, -100).index_fill(1, CHOSEN[:1], 3)}, {}),
    "num_items_in_batch": ({"labels": LABELS, "num_items_in_batch": 41}, {}),
    "num_items_in_batch as a tensor": ({"labels": LABELS, "num_items_in_batch": torch.tensor(7)}, {}),
    "position_ids": ({"position_ids": torch.tensor([[3], [90], [0]]) + 2 * torch.arange(IDS.shape[1])}, {}),
    "one row of position_ids": ({"position_ids": torch.arange(40, 40 + IDS.shape[1])[None]}, {}),
    "cache_position": ({"cache_position": torch.arange(IDS.shape[1])}, {"cache_position": None}),
    "no cache": ({"use_cache": False}, {}),
    "hidden states": ({"output_hidden_states": True, "labels": LABELS}, {}),
    "num_logits_to_keep": ({"num_logits_to_keep": 4}, {"logits_to_keep": 4}),
    "num_logits_to_keep, more than there are": ({"num_logits_to_keep": 40}, {"logits_to_keep": 40}),
    "num_logits_to_keep as indices": ({"num_logits_to_keep": CHOSEN}, {"logits_to_keep": CHOSEN}),
    "logits_to_keep": ({"logits_to_keep": 1}, {}),
    "logits_to_keep as indices": ({"logits_to_keep": CHOSEN}, {}),
    "a ready mask": ({"attention_mask": MASK.bool()[:, None, None] & torch.ones(11, 11).tril().bool()}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_equal_transformers(variant: str, side: str) -> None:
    ours, reference = pair(variant)
    ids, mask = ragged_batch(side)
    labels = torch.where(mask.bool(), ids, -100)
    labels[0, 3:6] = -100
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels, "output_hidden_states": True}
    assert_parity(ours, reference, given)


@pytest.mark.parametrize("variant", ["glm", "glm4"])
@pytest.mark.parametrize("call", CALLS)
def test_every_argument_has_the_effect_that_it_has_in_transformers(variant: str, call: str) -> None:
    given, differs = CALLS[call]
    theirs = {**given, **differs}
    theirs.pop("num_logits_to_keep", None)
    ours, reference = pair(variant)
    assert_parity(ours, reference, {"input_ids": IDS, **given}, {"input_ids": IDS, **theirs})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_attentions_equal_transformers_eager_ones_also_on_padding(variant: str, side: str) -> None:
    ours, reference = pair(variant, attention="eager")
    ids, mask = ragged_batch(side)
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "output_attentions": True,
        "output_hidden_states": True,
    }
    assert_parity(ours, reference, given)


@pytest.mark.parametrize("attentions", [False, True])
def test_given_embeddings_get_the_gradient_that_transformers_gives_them(attentions: bool) -> None:
    ours, reference = pair("glm4", attention="eager" if attentions else "sdpa")
    ids, mask = ragged_batch("left")
    embeds = [torch.randn(*ids.shape, 48, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    for model, given in zip((ours, reference), embeds, strict=True):
        given.requires_grad_()
        out = model(inputs_embeds=given, attention_mask=mask, labels=ids, output_attentions=attentions)
        out.loss.backward()
    assert ours.model.embed_tokens.weight.grad is None
    assert relative(embeds[0].grad, embeds[1].grad) <= GRADIENT
    assert_same_gradients(ours, reference)


@pytest.mark.parametrize("attentions", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_packed_row_equals_its_documents_run_alone(variant: str, attentions: bool) -> None:
    ours, reference = pair(variant, attention="eager" if attentions else "sdpa")
    rows = [(IDS[r, :n], LABELS[r, :n]) for r, n in enumerate(LENGTHS)]
    packed = ours(
        torch.cat([ids for ids, _ in rows])[None],
        labels=torch.cat([labels for _, labels in rows])[None],
        cu_seqlens=edges(),
        output_attentions=attentions,
    )
    packed.loss.backward()
    alone = [reference(input_ids=i[None], labels=y[None], output_attentions=attentions) for i, y in rows]
    counts = torch.tensor([(y[1:] != -100).sum() for _, y in rows])
    loss = (torch.stack([a.loss for a in alone]) * counts).sum() / counts.sum()
    loss.backward()
    assert_close(packed.logits[0], torch.cat([a.logits[0] for a in alone]))
    assert_close(packed.loss, loss, "loss", LOSS)
    assert_same_gradients(ours, reference)
    if attentions:
        for layer, weights in enumerate(packed.attentions):
            heads = range(weights.shape[1])
            blocks = [torch.block_diag(*(a.attentions[layer][0, head] for a in alone)) for head in heads]
            assert_close(weights[0], torch.stack(blocks), f"attentions[{layer}]", ATTENTION)


def test_positions_restart_in_every_document_of_a_packed_row() -> None:
    """Attention is relative, so that numbers tell nothing until a row is long; the angles do."""
    ours, _ = pair("glm")
    tables: list[torch.Tensor] = []
    ours.model.layers[0].register_forward_pre_hook(lambda layer, given: tables.append(given[1][1]))
    ids = torch.cat([IDS[row, :length] for row, length in enumerate(LENGTHS)])[None]
    ours(ids, cu_seqlens=edges())
    ours(ids[:, :11])
    packed, alone = (sines.flatten(2)[0] for sines in tables)
    assert torch.equal(packed, torch.cat([alone[:length] for length in LENGTHS]))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("variant", ["glm", "glm4-gqa4-nobias"])
def test_the_training_path_equals_the_documented_forward(variant: str) -> None:
    """Keeping positions before the last layer's MLP changes no number, forward or backward."""
    ours, _ = pair(variant)
    row, two = IDS.flatten()[:22], torch.tensor([0, 11, 22], dtype=torch.int32)
    keep = torch.tensor([2, 3, 9, 12, 20])
    whole = ours.model(row[None], cu_seqlens=two).last_hidden_state[0, keep]
    whole.square().sum().backward()
    expected = gradients(ours)
    ours.zero_grad()
    kept = ours.model.packed_hidden(row, torch.arange(22) % 11, two, 11, keep)
    kept.square().sum().backward()
    assert (kept - whole).abs().max() <= LOGITS
    for name, gradient in gradients(ours).items():
        if expected[name] is not None:
            assert relative(gradient, expected[name]) <= GRADIENT, name


def test_the_padding_row_gets_no_gradient_but_the_heads_row_does() -> None:
    ours, _ = pair("glm")
    assert (IDS[MASK.bool()] == 5).any()
    ours(IDS, attention_mask=MASK, labels=LABELS).loss.backward()
    assert ours.model.embed_tokens.weight.grad[5].abs().max() == 0
    assert ours.lm_head.weight.grad[5].abs().max() > 0
