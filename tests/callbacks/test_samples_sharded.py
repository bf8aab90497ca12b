"""Samples of a model whose weights are spread over two processes: the same answers, and the shards afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glm_train import GlmForCausalLM, GlmTokenizer
from support.sharded_samples import answers


def test_sharded_weights_answer_as_whole_ones_and_stay_sharded(model_folder: Path, tmp_path: Path) -> None:
    tests = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "support.sharded_samples",
                str(model_folder),
                str(rank),
                str(tmp_path / "store"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for rank in range(2)
    ]
    results = []
    for process in ranks:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        results.append(json.loads(out))
    assert results[0] == results[1]
    model = GlmForCausalLM.from_pretrained(model_folder).train()
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    assert results[0]["answers"] == answers(model, tokenizer)
    assert results[0]["sharded"]
    ids = torch.tensor([tokenizer.encode_plain("Hello, how are you?")])
    assert results[0]["loss"] == pytest.approx(model(ids, labels=ids).loss.item(), rel=1e-6)
