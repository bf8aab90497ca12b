"""Random configurations and batches against transformers: every head's outputs, loss and gradients."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from glm_train.model.config import GlmConfig
from support.random_configs import random_batch, random_config, random_labels
from support.reference import assert_close, assert_parity, assert_same_gradients, edges, pair_of
from support.tolerances import DOCUMENT_LOSS, GRADIENT_FLOOR

#: More for a night's run: GLM_TRAIN_FUZZ=500 python -m pytest tests/parity/test_random_configs_parity.py
COUNT = int(os.environ.get("GLM_TRAIN_FUZZ", "30"))


def batch_for(draw: random.Random, head: str, config: GlmConfig) -> tuple[dict[str, Tensor], list[int]]:
    """A batch with labels that both sides can take, and the rows' lengths."""
    while True:
        ids, mask, lengths = random_batch(draw, config)
        if head == "sequence":
            if config.pad_token_id is None:  # transformers takes one row at a time there
                ids, mask, lengths = ids[:1, : lengths[0]], mask[:1, : lengths[0]] * 0 + 1, lengths[:1]
            last = ids[torch.arange(len(ids)), (mask * torch.arange(ids.shape[1])).argmax(1)]
            if (
                config.pad_token_id in last.tolist()
            ):  # where ours means to differ: see the sequence classifier's tests
                continue
        if head == "causal" and ids.shape[1] == 1:
            continue  # nothing to predict
        labels = random_labels(draw, head, config, mask)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}, lengths


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_configuration_equals_transformers(seed: int) -> None:
    draw = random.Random(seed)
    head = ("causal", "sequence", "token")[seed % 3]
    bidirectional = head != "causal" and draw.random() < 0.3
    eager = bidirectional or draw.random() < 0.3
    config = random_config(draw, bidirectional=bidirectional, use_cache=not bidirectional)
    ours, reference = pair_of(config, seed, head, "eager" if eager else "sdpa")
    batch, lengths = batch_for(draw, head, config)
    asked: dict[str, Any] = {"output_hidden_states": True, "output_attentions": eager}
    assert_parity(ours, reference, {**batch, **asked}, floor=GRADIENT_FLOOR)
    ours.zero_grad()
    reference.zero_grad()
    packed_equals_alone(ours, reference, batch, lengths)


def packed_equals_alone(ours: Any, reference: Any, batch: dict[str, Tensor], lengths: list[int]) -> None:
    real = batch["attention_mask"].bool()
    packed = ours(batch["input_ids"][real][None], cu_seqlens=edges(lengths))
    alone = [reference(input_ids=ids[keep][None]) for ids, keep in zip(batch["input_ids"], real, strict=True)]
    scores = torch.cat([out.logits for out in alone], dim=packed.logits.ndim - 2)
    assert_close(packed.logits, scores, "packed logits")
    weights = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    losses = [(logits * weights).square().mean() for logits in (packed.logits, scores)]
    assert_close(*losses, "a loss of the packed row", DOCUMENT_LOSS)
    for loss in losses:
        loss.backward()
    assert_same_gradients(ours, reference, GRADIENT_FLOOR)
