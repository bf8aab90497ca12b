"""Weights, gradients and moments that wait in the memory of the CPU: the same training, from the same states.

Only on CPUs so far, where nothing has to be moved: what is tested is that every part of a run takes such weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.compared_runs import overrides, rows, weights

CHILD = Path(__file__).parent.parent / "support" / "offloaded_runs.py"
LORA = ["adapter=lora", "adapter.r=4"]
JOBS = {  # name -> whether it is offloaded, and its settings; the same name again goes on with that run
    "plain": (False, []),
    "waiting": (True, []),
    "stopped": (True, ["trainer.max_steps=2"]),
    "stopped again": (True, ["resume=auto"]),
    "lora": (False, LORA),
    "lora-waiting": (True, LORA),
}


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, model_folder: Path, chat_file: Path
) -> tuple[Path, dict[str, Any]]:
    """The runs, and what the processes found out besides."""
    place = tmp_path_factory.mktemp("offload")
    common = ["parallel=fsdp", "trainer.max_steps=3", "trainer.save_every=1", "trainer.validate_every=2"]
    jobs = [
        (offload, overrides(model_folder, chat_file, place / name.split()[0], *common, *more))
        for name, (offload, more) in JOBS.items()
    ]
    (place / "jobs.json").write_text(json.dumps(jobs))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launch, str(CHILD), str(place / "jobs.json")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return place, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"), [("plain", "waiting"), ("plain", "stopped"), ("lora", "lora-waiting")]
)
def test_what_waits_is_trained_saved_and_resumed_alike(
    made: tuple[Path, dict[str, Any]], one: str, other: str
) -> None:
    place, _ = made
    assert len(rows(place / one)) == 3
    assert rows(place / one) == rows(place / other)
    assert max(row["train/grad_norm"] for row in rows(place / one)) > 1  # it was clipped
    expected, found = weights(place / one), weights(place / other)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(tensor, found[name]) for name, tensor in expected.items())


@pytest.mark.slow
def test_it_waits_and_is_left_there(made: tuple[Path, dict[str, Any]]) -> None:
    """For a device other than that of the weights, the strategy moves the buffers alone."""
    _, found = made
    assert len(found["offloaded"]) > 20
    assert all(found["offloaded"])
    assert found["moved"] == ["cpu", "meta", "meta"]
