"""Short runs of the classification tasks and of LoRA, and what their folders hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from glm_train.config.compose import compose
from glm_train.config.schema import RunConfig
from support.runs import rows

DATA = {"sequence_classification": "sequence", "token_classification": "tokens", "chat": "chat"}


def configured(task: str, model: Path, train: object, output: Path | None, **settings: Any) -> RunConfig:
    """A run of four steps of two documents; keyword `optim__lr=1` is `optim.lr=1`, and None is null."""
    values = {
        "task": task,
        "data": DATA[task],
        "model.path": model,
        "data.train": train,
        "data.max_length": 64,
        "batch.documents": 2,
        "optim.lr": 0.01,
        "schedule.warmup_steps": 0,
        "trainer.max_steps": 4,
        "trainer.accelerator": "cpu",
        "output_dir": output,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return compose("chat_smoke", [f"{key}={_typed(value)}" for key, value in values.items()])


def _typed(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"[{','.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def result(run: Path) -> dict[str, np.ndarray]:
    """The tensors that a run leaves: of its model, or of its adapter."""
    folder = run / "model"
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")


def saved_config(run: Path) -> dict[str, Any]:
    return json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))


def state(run: Path, step: int) -> dict[str, np.ndarray]:
    """All tensors of a resume state, by file and name: weights, moments, random numbers."""
    files = sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    return {f"{file.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    assert found.keys() == expected.keys()
    return all(np.array_equal(found[name], expected[name]) for name in expected)


def cut_back(whole: Path, part: Path, step: int) -> Path:
    """A copy of a run as it was after `step`, without anything that came later but rows of metrics.csv."""
    shutil.copytree(whole, part, ignore=shutil.ignore_patterns("model", "report.html"))
    for folder in (part / "checkpoints", part / "best"):
        for kept in folder.iterdir() if folder.is_dir() else ():
            if int(kept.name.removeprefix("step-")) > step:
                shutil.rmtree(kept)
    return part


def scalars(run: Path, name: str) -> dict[int, float]:
    """The values of one column of metrics.csv, by step."""
    return {int(row["step"]): float(row[name]) for row in rows(run / "metrics.csv") if row.get(name)}


@torch.no_grad()
def logits_of(model: Any, documents: Iterable[Sequence[int]]) -> list[torch.Tensor]:
    """The scores of each document by itself."""
    model.eval()
    return [model(input_ids=torch.tensor([list(ids)])).logits[0] for ids in documents]
