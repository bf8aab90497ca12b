"""Stored losses of a seeded run. A change that moves them must be meant: GOLDEN=write rewrites."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from glm_train import run
from support.runs import configure, rows

STORED = Path(__file__).parent / "chat_full.json"
# The sums of another processor's kernels come in another order; after ten steps that shows in the fifth digit.
RELATIVE = 1e-4


def test_the_losses_of_ten_steps_are_the_stored_ones(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    config = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        data__validation=chat_file,
        batch__documents=2,
        batch__accumulate=3,
        optim__lr=0.003,
        trainer__max_epochs=5,
        seed=7,
    )
    run.fit(config, "test")
    logged = rows(tmp_path / "run" / "metrics.csv")
    found = {
        name: [round(float(row[name]), 6) for row in logged if row[name]]
        for name in ("train/loss", "train/grad_norm", "val/loss")
    }
    if os.environ.get("GOLDEN") == "write":
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert len(stored["train/loss"]) == 10
    for name, values in stored.items():
        assert found[name] == pytest.approx(values, rel=RELATIVE), name
