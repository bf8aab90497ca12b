"""The sequence classifier against transformers: scores, the three losses, every gradient; padded either side, packed.

One difference is meant. Told by `attention_mask` where a document ends, ours reads its last token, whatever it is;
transformers reads the rightmost token that is not the padding id, mask or no mask. GLM's padding id is
`<|endoftext|>`, a stop token, so a document may well end in it. Shapes: B batch, T tokens, L labels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.reference import (
    PAD,
    assert_close,
    assert_parity,
    assert_same_gradients,
    edges,
    pair,
    ragged_batch,
)
from support.tiny_models import VARIANTS
from support.tolerances import DOCUMENT_LOSS

LENGTHS = (11, 7, 9)  # no row ends in the padding id, which stands at place 5
CLASSES = torch.tensor([2, 0, 1])
VALUES = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.0, 0.25], [-0.75, 3.0, 1.0]])
SEVERAL = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])

#: Labels and what the configuration says of them.
PROBLEMS: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "one class, inferred": (CLASSES, {"num_labels": 3}),
    "one class, said": (CLASSES, {"num_labels": 3, "problem_type": "single_label_classification"}),
    "one class in a column": (CLASSES[:, None], {"num_labels": 3}),
    "one of two": (CLASSES % 2, {"num_labels": 2}),
    "regression, inferred": (VALUES[:, 0], {"num_labels": 1}),
    "regression in a column": (VALUES[:, :1], {"num_labels": 1}),
    "regression of three values": (VALUES, {"num_labels": 3, "problem_type": "regression"}),
    "several, inferred": (SEVERAL, {"num_labels": 3}),
    "several, said": (SEVERAL, {"num_labels": 3, "problem_type": "multi_label_classification"}),
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("variant", ["glm", "glm4"])
def test_every_kind_of_label_gives_transformers_loss(variant: str, problem: str) -> None:
    labels, says = PROBLEMS[problem]
    ours, reference = pair(variant, head="sequence", **says)
    ids, mask = ragged_batch("right", LENGTHS)
    assert_parity(ours, reference, {"input_ids": ids, "attention_mask": mask, "labels": labels})


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", [name for name in VARIANTS if "no-pad" not in name])
def test_padded_batches_equal_transformers_on_either_side(variant: str, side: str, masked: bool) -> None:
    ours, reference = pair(variant, head="sequence", num_labels=3)
    ids, mask = ragged_batch(side, LENGTHS)
    given = {"input_ids": ids, "labels": CLASSES, "output_hidden_states": True}
    assert_parity(ours, reference, given | ({"attention_mask": mask} if masked else {}))


@pytest.mark.parametrize("side", ["left", "right"])
def test_attentions_and_positions_equal_transformers(side: str) -> None:
    ours, reference = pair("glm4", head="sequence", attention="eager")
    ids, mask = ragged_batch(side, LENGTHS)
    positions = torch.tensor([[3], [90], [0]]) + 2 * torch.arange(ids.shape[1])
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "use_cache": False}
    assert_parity(ours, reference, given | {"output_attentions": True, "labels": CLASSES % 2})


def test_without_a_mask_the_rightmost_token_that_is_no_padding_counts() -> None:
    ours, reference = pair("glm", head="sequence")
    ids, _ = ragged_batch("right", (11, 6, 9))
    assert ids[1, 5] == PAD  # inside the row's six tokens, and not told from padding
    ids = torch.cat([ids, torch.full_like(ids[:1], PAD)])  # a row of nothing else: its first token
    out = ours(ids, output_hidden_states=True)
    expected = out.hidden_states[-1][torch.arange(4), torch.tensor([10, 4, 8, 0])]
    assert_close(out.logits, ours.score(expected))
    assert_parity(ours, reference, {"input_ids": ids})


def test_a_document_that_ends_in_the_padding_id_is_read_to_its_end_where_the_mask_tells() -> None:
    """The one meant difference to transformers, which reads the token before."""
    ours, reference = pair("glm", head="sequence")
    ids, mask = ragged_batch("right", (11, 6, 9))
    out = ours(ids, attention_mask=mask, output_hidden_states=True)
    theirs = reference(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    last = theirs.hidden_states[-1]
    assert_close(out.logits, reference.score(last[torch.arange(3), torch.tensor([10, 5, 8])]))
    assert_close(theirs.logits, reference.score(last[torch.arange(3), torch.tensor([10, 4, 8])]))
    alone = ours(ids[1:2, :6], attention_mask=mask[1:2, :6])
    assert_close(out.logits[1:2], alone.logits)


def test_a_document_that_ends_in_the_padding_id_is_read_to_its_end_in_a_packed_row() -> None:
    ours, _ = pair("glm", head="sequence")
    ids, mask = ragged_batch("right", (11, 6, 9))
    packed = ours(ids[mask.bool()][None], cu_seqlens=edges((11, 6, 9)))
    assert_close(packed.logits, ours(ids, attention_mask=mask).logits)


@pytest.mark.parametrize("given", ["ids", "embeddings"])
def test_a_model_without_a_padding_id_reads_the_last_token(given: str) -> None:
    ours, reference = pair("glm-no-pad", head="sequence")
    ids, _ = ragged_batch("right", (11, 11), pad=None)
    embeds = torch.randn(2, 11, 48, generator=torch.Generator().manual_seed(0))
    rows: dict[str, torch.Tensor] = {"input_ids": ids} if given == "ids" else {"inputs_embeds": embeds}
    together = ours(**rows).logits  # transformers takes one row at a time
    for row in range(2):
        one = {name: tensor[row : row + 1] for name, tensor in rows.items()}
        assert_close(together[row : row + 1], reference(**one).logits)


def test_embeddings_are_read_to_the_last_token_as_in_transformers() -> None:
    ours, reference = pair("glm", head="sequence")
    ids, mask = ragged_batch("left", LENGTHS)
    embeds = torch.randn(*ids.shape, 48, generator=torch.Generator().manual_seed(0))
    for given in ({}, {"attention_mask": mask}):
        assert_parity(ours, reference, {"inputs_embeds": embeds, "labels": CLASSES % 2, **given})
        ours.zero_grad()
        reference.zero_grad()


@pytest.mark.parametrize("masked", [True, False])
def test_a_document_in_two_pieces_with_a_cache_equals_transformers(masked: bool) -> None:
    from transformers import DynamicCache

    ours, reference = pair("glm4", head="sequence")
    ids, mask = ragged_batch("left", LENGTHS)
    theirs, cache = DynamicCache(config=reference.config), None
    for start, end in ((0, 7), (7, 11)):
        given = {"input_ids": ids[:, start:end]} | ({"attention_mask": mask[:, :end]} if masked else {})
        mine = ours(**given, past_key_values=cache)
        expected = reference(**given, past_key_values=theirs)
        assert_close(mine.logits, expected.logits)
        cache = mine.past_key_values


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_packed_row_equals_its_documents_run_alone(problem: str) -> None:
    labels, says = PROBLEMS[problem]
    ours, reference = pair("glm4", head="sequence", **says)
    ids, mask = ragged_batch("right", LENGTHS)
    packed = ours(ids[mask.bool()][None], cu_seqlens=edges(LENGTHS), labels=labels)
    packed.loss.backward()
    alone = [
        reference(input_ids=ids[row : row + 1, :length], labels=labels[row : row + 1])
        for row, length in enumerate(LENGTHS)
    ]
    loss = torch.stack([out.loss for out in alone]).mean()
    loss.backward()
    assert_close(packed.logits, torch.cat([out.logits for out in alone]))
    assert_close(packed.loss, loss, "loss", DOCUMENT_LOSS)
    assert_same_gradients(ours, reference)


def test_the_loss_is_inferred_from_each_batch_and_not_remembered() -> None:
    """transformers writes the first batch's kind into the configuration; ours leaves that alone."""
    ours, reference = pair("glm", head="sequence", num_labels=3)
    ids, mask = ragged_batch("right", LENGTHS)
    for labels in (SEVERAL, CLASSES, SEVERAL):
        reference.config.problem_type = None
        assert_parity(ours, reference, {"input_ids": ids, "attention_mask": mask, "labels": labels})
        ours.zero_grad()
        reference.zero_grad()
        assert ours.config.problem_type is None
