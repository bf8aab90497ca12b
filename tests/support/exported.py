"""Run folders as a finished run leaves them, for each task, with all weights trained or an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glm_train import GlmTokenizer
from glm_train.adapters.folder import save_adapter
from glm_train.adapters.lora import add_adapter
from glm_train.adapters.settings import LoraSettings
from glm_train.build_model import MODELS
from glm_train.checkpoint.pretrained import write_generation
from glm_train.run_result import save_model, with_stops
from support.model_folder import make_model_folder

HEADS: dict[str, dict[str, Any]] = {
    "chat": {},
    "sequence_classification": {"id2label": {0: "bad", 1: "good", 2: "neither"}},
    "token_classification": {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC", 3: "B-人", 4: "I-人"}},
}
TASKS = tuple(HEADS)
SETTINGS = LoraSettings(r=4, alpha=8)


def make_base(
    path: Path, tokenizer_folder: Path, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Path:
    """A random base with the tokenizer's files, stored in `dtype`."""
    make_model_folder(path, tokenizer_folder, **changes)
    if dtype != torch.float32:
        model = MODELS["chat"].from_pretrained(path, dtype=dtype)
        model.save_pretrained(path, overwrite=True)
    return path


def make_run(
    path: Path, base: Path, task: str, *, adapter: LoraSettings | None = None, **changes: Any
) -> tuple[Path, Any]:
    """A run folder and its model in memory, in fp32: the weights of `base`, moved at random as by training."""
    torch.manual_seed(1)
    model: Any = MODELS[task].from_pretrained(base, dtype=torch.float32, **HEADS[task], **changes)
    tokenizer = GlmTokenizer.from_pretrained(base)
    if adapter is not None:
        add_adapter(model, adapter)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("task:\n  name: made\n")
    if adapter is None:
        save_model(path / "model", model, tokenizer)
    else:
        save_adapter(model, path / "model", str(base))
        tokenizer.save_pretrained(path / "model")
        write_generation(path / "model", with_stops(model, tokenizer))
    return path, model.eval()


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()
