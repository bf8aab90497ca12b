"""The token classifier against transformers: scores, loss, every gradient; padded either side, packed."""

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
)
from support.tiny_models import VARIANTS
from support.tolerances import LOSS


def labelled(side: str, labels: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and labels (B, T): padding is not trained, and neither are some tokens inside."""
    ids, mask = ragged_batch(side)
    tags = torch.where(mask.bool(), ids % labels, -100)
    tags[:, 6:8] = -100
    return ids, mask, tags


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batches_equal_transformers(variant: str, side: str) -> None:
    ours, reference = pair(variant, head="token", num_labels=5)
    ids, mask, labels = labelled(side)
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels, "output_hidden_states": True}
    assert_parity(ours, reference, given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"position_ids": torch.tensor([[3], [90], [0]]) + 2 * torch.arange(11)},
        {"use_cache": False, "output_attentions": True},
        {"output_attentions": True, "output_hidden_states": True},
    ],
    ids=["ids alone", "positions", "attentions", "attentions and hidden states"],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_argument_has_the_effect_that_it_has_in_transformers(side: str, given: dict[str, Any]) -> None:
    ours, reference = pair(
        "glm4", head="token", attention="eager" if "output_attentions" in given else "sdpa"
    )
    ids, mask, labels = labelled(side, 2)
    assert_parity(ours, reference, {"input_ids": ids, "attention_mask": mask, "labels": labels, **given})


def test_given_embeddings_and_no_labels_equal_transformers() -> None:
    ours, reference = pair("glm", head="token")
    embeds = torch.randn(3, 11, 48, generator=torch.Generator().manual_seed(0))
    assert_parity(ours, reference, {"inputs_embeds": embeds})


def test_one_label_alone_and_no_bias_equal_transformers() -> None:
    ours, reference = pair("glm", head="token", num_labels=1, token_classification_bias=False)
    ids, mask, labels = labelled("right", 1)
    assert [name for name, _ in ours.named_parameters() if "score" in name] == ["score.weight"]
    assert_parity(ours, reference, {"input_ids": ids, "attention_mask": mask, "labels": labels})


@pytest.mark.parametrize(
    "says",
    [
        {},
        {"classifier_dropout": 0.3},
        {"hidden_dropout": 0.2},
        {"classifier_dropout": 0.0, "hidden_dropout": 0.2},
    ],
    ids=["default", "classifier", "hidden", "both"],
)
def test_the_dropout_is_transformers_and_off_in_evaluation(says: dict[str, float]) -> None:
    ours, reference = pair("glm", head="token", **says)
    assert ours.dropout.p == reference.dropout.p
    ids, mask, labels = labelled("right", 2)
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    assert_parity(ours, reference, given)
    ours.train()
    reference.train()
    losses = []
    for model in (ours, reference):  # the same draws, for the mask has the same shape
        torch.manual_seed(1)
        losses.append(model(**given).loss)
    assert_close(losses[0], losses[1], "loss", LOSS)
    assert (losses[0] != ours.eval()(**given).loss) == bool(ours.dropout.p)


def test_a_packed_row_equals_its_documents_run_alone() -> None:
    ours, reference = pair("glm4", head="token", num_labels=5)
    ids, mask, labels = labelled("right")
    real = mask.bool()
    packed = ours(ids[real][None], cu_seqlens=edges(), labels=labels[real][None])
    packed.loss.backward()
    alone = [
        reference(input_ids=ids[row : row + 1, :length], labels=labels[row : row + 1, :length])
        for row, length in enumerate(LENGTHS)
    ]
    counts = (labels != -100).sum(1)
    loss = (torch.stack([out.loss for out in alone]) * counts).sum() / counts.sum()
    loss.backward()
    assert_close(packed.logits[0], torch.cat([out.logits[0] for out in alone]))
    assert_close(packed.loss, loss, "loss", LOSS)
    assert_same_gradients(ours, reference)


def test_labels_that_train_nothing_cost_nothing() -> None:
    """transformers divides by zero there; a packed batch may well hold such a row."""
    ours, reference = pair("glm", head="token")
    ids, _, _ = labelled("right")
    nothing = torch.full_like(ids, -100)
    loss = ours(ids, labels=nothing).loss
    loss.backward()
    assert loss.item() == 0
    assert all(parameter.grad.abs().max() == 0 for parameter in ours.parameters())
    assert reference(input_ids=ids, labels=nothing).loss.isnan()
