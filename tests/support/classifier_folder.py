"""Tiny model folders with a classification head and their tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from glm_train import GlmConfig, GlmForSequenceClassification, GlmForTokenClassification, GlmTokenizer
from support.tiny_models import SHAPE

NER = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def make_classifier(
    path: Path, tokenizer_folder: Path, names: Sequence[str], problem: str | None = None, **changes: Any
) -> Path:
    """A random model with these labels: for sequences where `problem` (a `problem_type`) is given, else for tokens."""
    shutil.copytree(tokenizer_folder, path)
    padding = GlmTokenizer.from_pretrained(path).special_tokens["<|endoftext|>"]
    shape = {
        **SHAPE,
        "vocab_size": 448,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "pad_token_id": padding,
        "eos_token_id": [padding],
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": problem,
        **changes,
    }
    torch.manual_seed(0)
    head = GlmForSequenceClassification if problem else GlmForTokenClassification
    head(GlmConfig(**shape)).save_pretrained(path)
    return path


def write_lines(path: Path, values: Iterable[dict[str, Any] | str]) -> Path:
    """A file of JSON Lines; texts stand as they are."""
    lines = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
