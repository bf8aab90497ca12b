"""Short runs of the classification tasks and of LoRA, and what their folders hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from glm_train.config.compose import compose
from glm_train.config.schema import RunConfig
from glm_train.run import fit
from support.runs import rows

# Settings of a run that keeps the state of every step, and its best model.
KEEPS_ALL = {"trainer__save_every": 1, "trainer__keep": 100, "trainer__result": "best"}
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


def ends_as_if_never_stopped(config: Callable[..., RunConfig], whole: Path, part: Path, step: int) -> None:
    """Stop a run that kept the state of every step after `step`, in a copy, and go on: no bit of it is another.

    `config(output, resume="auto")` is what it was started with.
    """
    cut_back(whole, part, step)
    steps = max(int(path.name.removeprefix("step-")) for path in (whole / "checkpoints").iterdir())
    assert fit(config(part, resume="auto"), "test").steps == steps > step
    assert same(result(part), result(whole))
    for later in range(step + 1, steps + 1):
        assert same(state(part, later), state(whole, later))
    assert rows(part / "metrics.csv") == rows(whole / "metrics.csv")


def scores_as_in_transformers(run: Path, texts: Sequence[str], *, both_sides: bool = False) -> Any:
    """Assert that both libraries give the run's model the same scores; transformers' model, and its scores."""
    import transformers

    import glm_train

    (name,) = saved_config(run)["architectures"]
    ours, theirs = (
        getattr(package, name).from_pretrained(run / "model") for package in (glm_train, transformers)
    )
    if both_sides:  # transformers has a switch for it, which it does not read from the file
        for module in theirs.modules():
            if hasattr(module, "is_causal"):
                module.is_causal = False
        theirs.config.is_causal = False
    tokenizer = transformers.AutoTokenizer.from_pretrained(run / "model")
    documents = [tokenizer(text)["input_ids"] for text in texts]
    expected = logits_of(theirs, documents)
    for mine, reference in zip(logits_of(ours, documents), expected, strict=True):
        assert torch.allclose(mine, reference, atol=1e-5)
    return theirs, expected


def scalars(run: Path, name: str) -> dict[int, float]:
    """The values of one column of metrics.csv, by step."""
    return {int(row["step"]): float(row[name]) for row in rows(run / "metrics.csv") if row.get(name)}


@torch.no_grad()
def logits_of(model: Any, documents: Iterable[Sequence[int]]) -> list[torch.Tensor]:
    """The scores of each document by itself."""
    model.eval()
    return [model(input_ids=torch.tensor([list(ids)])).logits[0] for ids in documents]
