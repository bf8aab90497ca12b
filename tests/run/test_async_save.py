"""trainer.async_save changes when a state is written, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glm_train.checkpoint.resume import load_state
from support.compared_runs import overrides
from support.rank_runs import run_together

SETTINGS = ("adapter=lora", "adapter.r=4", "adapter.dropout=0.2", "data.workers=1", "trainer.result=best")
TIMES = ("trainer.max_steps=8", "trainer.save_every=1", "trainer.validate_every=2", "batch.accumulate=2")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_states_and_results_are_those_of_a_run_that_waits(
    tmp_path: Path, model_folder: Path, chat_file: Path, processes: int
) -> None:
    spread = ["parallel=fsdp"] if processes > 1 else []
    jobs = [
        overrides(model_folder, chat_file, tmp_path / name, *SETTINGS, *TIMES, *spread, *more)
        for name, more in {"waits": [], "goes-on": ["trainer.async_save=true"]}.items()
    ]
    run_together(jobs, processes, tmp_path)
    states = {
        name: sorted(str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("step-*"))
        for name in ("waits", "goes-on")
    }
    assert states["waits"] == states["goes-on"]
    assert len(states["waits"]) >= 9, "eight states, and that of the best model"
    for state in states["waits"]:
        (tensors, meta), (others, other) = (load_state(tmp_path / name / state) for name in states)
        assert json.dumps(meta, sort_keys=True) == json.dumps(other, sort_keys=True)
        assert {g: set(t) for g, t in tensors.items()} == {g: set(t) for g, t in others.items()}
        assert all(t.equal(others[g][name]) for g, named in tensors.items() for name, t in named.items())
    first, second = (tmp_path / name / "model" / "adapter_model.safetensors" for name in states)
    assert first.read_bytes() == second.read_bytes()
