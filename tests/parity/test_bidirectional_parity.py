"""Bidirectional attention against transformers: its decoder with `config.is_causal = False` and eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.reference import (
    assert_close,
    assert_parity,
    assert_same_gradients,
    edges,
    pair,
    ragged_batch,
)
from support.tiny_models import VARIANTS

LENGTHS = (11, 7, 9)
HEADS = ("model", "sequence", "token")


def both(variant: str, head: str, attention: str = "eager") -> tuple[Any, Any]:
    # transformers' bidirectional models make a cache all the same; ours have none
    return pair(variant, head=head, attention=attention, bidirectional=True, use_cache=False)


def labels_of(head: str, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    if head == "token":
        return {"labels": torch.where(mask.bool(), ids % 2, -100)}
    return {"labels": torch.tensor([0, 1, 1])} if head == "sequence" else {}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("variant", "head"),
    [*((kind, head) for kind in ("glm", "glm4") for head in HEADS), *((name, "model") for name in VARIANTS)],
)
def test_padded_batches_equal_transformers(variant: str, head: str, side: str) -> None:
    ours, reference = both(variant, head)
    ids, mask = ragged_batch(side, LENGTHS)
    given = {"input_ids": ids, "attention_mask": mask, **labels_of(head, ids, mask)}
    for attentions in (False, True):  # ours by the fast way, and by the way that shows its weights
        asked = {"output_attentions": True, "output_hidden_states": True} if attentions else {}
        assert_parity(ours, reference, {**given, **asked})
        ours.zero_grad()
        reference.zero_grad()


@pytest.mark.parametrize("head", HEADS)
def test_full_batches_and_given_positions_equal_transformers(head: str) -> None:
    ours, reference = both("glm4", head)
    ids, mask = ragged_batch("right", (9, 9, 9))
    positions = torch.tensor([[3], [90], [0]]) + 2 * torch.arange(9)
    for given in ({}, {"attention_mask": mask}, {"position_ids": positions}):
        assert_parity(ours, reference, {"input_ids": ids, **given, **labels_of(head, ids, mask)})
        ours.zero_grad()
        reference.zero_grad()


def test_a_ready_mask_equals_transformers() -> None:
    ours, reference = both("glm", "model", attention="sdpa")
    ids, _ = ragged_batch("right", LENGTHS)
    allowed = torch.rand(3, 1, 11, 11, generator=torch.Generator().manual_seed(0)) < 0.5
    allowed |= torch.eye(11, dtype=torch.bool)
    assert_parity(ours, reference, {"input_ids": ids, "attention_mask": allowed})


@pytest.mark.parametrize("attentions", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_a_packed_row_equals_its_documents_run_alone(head: str, attentions: bool) -> None:
    ours, reference = both("glm4-gqa4-nobias", head)
    ids, mask = ragged_batch("right", LENGTHS)
    packed = ours(ids[mask.bool()][None], cu_seqlens=edges(LENGTHS), output_attentions=attentions)
    alone = [reference(input_ids=ids[row : row + 1, :length]) for row, length in enumerate(LENGTHS)]
    scores = torch.cat([out[0] for out in alone], dim=0 if head == "sequence" else 1)
    assert_close(packed[0], scores)
    packed[0].square().mean().backward()
    scores.square().mean().backward()
    assert_same_gradients(ours, reference)


def test_the_training_path_sees_what_follows_too() -> None:
    ours, _ = both("glm4", "model")
    ids, mask = ragged_batch("right", LENGTHS)
    row, positions = ids[mask.bool()], torch.cat([torch.arange(length) for length in LENGTHS])
    whole = ours(row[None], cu_seqlens=edges(LENGTHS)).last_hidden_state[0]
    kept = ours.packed_hidden(row, positions, edges(LENGTHS), 11, torch.tensor([0, 10, 11, 20]))
    assert_close(kept, whole[[0, 10, 11, 20]])
    causal, _ = pair("glm4", head="model")
    causal.load_state_dict(ours.state_dict())
    assert (causal(row[None], cu_seqlens=edges(LENGTHS)).last_hidden_state[0] - whole).abs().max() > 0.1


def test_no_cache_comes_in_or_out() -> None:
    ours, _ = pair("glm", head="model", bidirectional=True)
    ids, _ = ragged_batch("right", LENGTHS)
    assert ours(ids).past_key_values is None
    causal, _ = pair("glm", head="model")
    with pytest.raises(ValueError, match="bidirectional"):
        ours(ids, past_key_values=causal(ids).past_key_values)
