"""The loss of a microbatch is transformers' for the same documents, however a step is cut; fillers train nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from glm_train.data.store import CONTINUES, IGNORE
from support.classifier_runs import LABELS, Example, examples_of, models, packed, task_of
from support.reference import assert_same_gradients
from support.tolerances import ACCUMULATION, DOCUMENT_LOSS, LOSS

KINDS = ["token", "single", "several", "values"]


def padded(kind: str, examples: list[Example]) -> dict[str, Any]:
    """What transformers is given: rows padded on the right."""
    width = max(len(ids) for ids, _ in examples)
    ids = np.stack([np.pad(one, (0, width - len(one))) for one, _ in examples])
    mask = np.stack([np.arange(width) < len(one) for one, _ in examples]).astype(np.int64)
    rows = [labels for _, labels in examples]
    if kind == "token":
        rows = [np.where(row == IGNORE, IGNORE, row % CONTINUES) for row in rows]
        labels = np.stack([np.pad(row, (0, width - len(row)), constant_values=IGNORE) for row in rows])
    else:
        labels = np.stack(rows)
        labels = labels[:, 0] if kind == "single" else labels
        labels = labels.view(np.float32) if kind == "values" else labels
    made = torch.from_numpy(labels)
    made = made.float() if kind in ("several", "values") else made.long()
    return {
        "input_ids": torch.from_numpy(ids).long(),
        "attention_mask": torch.from_numpy(mask),
        "labels": made,
    }


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_those_of_transformers(kind: str) -> None:
    # a padding id that does not occur: transformers takes the rightmost other token for the end of a document
    ours, reference = models(kind, pad_token_id=0)
    examples = [(np.where(ids == 0, 1, ids), labels) for ids, labels in examples_of(kind, 5)]
    batch = packed(kind, examples)
    loss = task_of(kind, ours).loss(batch, 1 / len(batch.targets))
    expected = reference(**padded(kind, examples)).loss
    assert loss.dtype == torch.float32
    tolerance = LOSS if kind == "token" else DOCUMENT_LOSS
    assert abs(loss.item() - expected.item()) <= tolerance * max(1, expected.item())
    loss.backward()
    expected.backward()
    assert_same_gradients(ours, reference)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_cut_into_microbatches_has_the_same_loss_and_gradient(kind: str) -> None:
    model, _ = models(kind)
    task, examples = task_of(kind, model), examples_of(kind, 6)
    scale = 1 / len(packed(kind, examples).targets)
    results = []
    for cuts in ([6], [1, 2, 3]):
        model.zero_grad()
        total, first = 0.0, 0
        for size in cuts:
            loss = task.loss(packed(kind, examples[first : first + size]), scale)
            loss.backward()
            total, first = total + loss.item(), first + size
        results.append((total, model.score.weight.grad.clone()))
    assert results[0][0] == pytest.approx(results[1][0], rel=ACCUMULATION)
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filler_trains_nothing_and_reaches_every_weight(kind: str) -> None:
    model, _ = models(kind)
    ((ids, labels),) = examples_of(kind, 1)
    batch = packed(kind, [(ids, np.full_like(labels, IGNORE))])
    weights = torch.ones(len(LABELS[kind])) if kind in ("token", "single") else None
    loss = task_of(kind, model.train(), class_weights=weights).loss(batch, 0.5)
    loss.backward()
    assert loss.item() == 0.0
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("kind", ["token", "single"])
def test_class_weights_multiply_the_losses_of_their_classes(kind: str) -> None:
    model, _ = models(kind)
    batch = packed(kind, examples_of(kind, 8))
    weights = torch.rand(len(LABELS[kind])) + 0.5
    task = task_of(kind, model, class_weights=weights)
    classes = batch.targets % CONTINUES
    single = F.cross_entropy(task.logits(batch), classes, reduction="none")
    assert task.loss(batch, 0.25).item() == pytest.approx(
        0.25 * (single * weights[classes]).sum().item(), rel=1e-5
    )
    assert "class_weights" not in task.state_dict(), "they follow from the data"


def test_dropout_is_on_in_training_alone() -> None:
    model, _ = models("token", classifier_dropout=0.5)
    task, batch = task_of("token", model), packed("token", examples_of("token", 4))
    task.eval()
    assert torch.equal(task.logits(batch), task.logits(batch))
    task.train()
    assert not torch.equal(task.logits(batch), task.logits(batch))


def test_scores_are_fp32_under_bf16() -> None:
    model, _ = models("single")
    task, batch = task_of("single", model), packed("single", examples_of("single", 4))
    exact = task.logits(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = task.logits(batch)
    assert rough.dtype == torch.float32
    assert (rough != rough.bfloat16()).any(), "the head itself does not round"
    assert (rough - exact).abs().max() < 0.1 * exact.abs().max()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="problem_type must be"):
        task_of("single", models("single", problem_type=None)[0])
    with pytest.raises(ValueError, match=r"class_weights must be \(4,\)"):
        task_of("single", models("single")[0], class_weights=torch.ones(3))
    with pytest.raises(ValueError, match="class_weights are for single_label"):
        task_of("several", models("several")[0], class_weights=torch.ones(3))
