"""Samples of a sharded model: its whole weights are let go of. (Several processes: test_tasks_across_ranks.py.)"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from glm_train import GlmForCausalLM, GlmTokenizer
from glm_train.callbacks.samples import answer_samples
from glm_train.parallel.shard import build_mesh, shard

PROMPTS = ("Hello", "What is the weather?", "你好")


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_a_sharded_model_answers_as_a_whole_one_and_stays_sharded(model_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    prompts = [np.array(tokenizer.encode_plain(text), np.int32) for text in PROMPTS]
    ids = torch.tensor([tokenizer.encode_plain("Hello, how are you?")])
    whole, shared = (GlmForCausalLM.from_pretrained(model_folder).train() for _ in range(2))
    shard(shared, build_mesh("cpu", 1), dtype=None, compute=None)
    expected = answer_samples(whole, tokenizer, prompts, 6)
    found = answer_samples(shared, tokenizer, prompts, 6)
    assert [answer.written for answer in found] == [answer.written for answer in expected]
    assert all(isinstance(parameter, DTensor) for parameter in shared.parameters())
    loss = shared(ids, labels=ids).loss
    loss.backward()
    assert loss.item() == pytest.approx(whole(ids, labels=ids).loss.item(), rel=1e-6)
