"""An adapted model can be sharded: bf16 weights that are frozen beside fp32 ones that are trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent.parent / "support" / "sharded_adapters.py"
KINDS = {
    "plain": {},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "head": {"targets": ["all-linear", "lm_head"]},
    "tokens": {"new_tokens": [11]},
    "whole": {"modules_to_save": ["embed_tokens"]},
}


@pytest.mark.slow
def test_sharded_adapters_get_the_gradients_of_whole_ones() -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, str(CHILD), json.dumps(KINDS)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == KINDS.keys()
    assert max(found.values()) <= 1e-6
