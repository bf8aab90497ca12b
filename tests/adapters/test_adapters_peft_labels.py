"""A classifier's adapter that PEFT saved: how many labels it has is known from its head alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train.adapters.folder import WEIGHTS_NAME
from glm_train.errors import CheckpointError
from glm_train.export import export
from glm_train.predict.settings import choose
from glm_train.trained_model import load_trained
from support.adapted import peft_trained
from support.exported import logits
from support.reference import relative
from support.tolerances import LOGITS

IDS = (torch.arange(40).view(2, 20) * 13 + 6) % 256
KINDS = {
    "TOKEN_CLS": ("AutoModelForTokenClassification", "token_classification"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "sequence_classification"),
}


def saved_by_peft(base: Path, folder: Path, kind: str, labels: int) -> Any:
    import transformers

    reference = getattr(transformers, KINDS[kind][0]).from_pretrained(
        base, num_labels=labels, dtype=torch.float32
    )
    return peft_trained(reference, folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_five_labels_are_five(model_folder: Path, tmp_path: Path, kind: str) -> None:
    theirs = saved_by_peft(model_folder, tmp_path / "adapter", kind, 5)
    found = load_trained(str(tmp_path / "adapter"))
    assert found.task == KINDS[kind][1]
    assert found.model.config.id2label == {i: f"LABEL_{i}" for i in range(5)}
    assert choose(str(tmp_path / "adapter"), []).model_config.num_labels == 5
    assert relative(logits(found.model, IDS), logits(theirs, IDS)) < LOGITS
    export(str(tmp_path / "adapter"), tmp_path / "out")
    merged = load_trained(str(tmp_path / "out"))
    assert relative(logits(merged.model, IDS), logits(theirs, IDS)) < LOGITS


def test_a_file_without_the_head_is_refused(model_folder: Path, tmp_path: Path) -> None:
    saved_by_peft(model_folder, tmp_path / "adapter", "TOKEN_CLS", 5)
    path = tmp_path / "adapter" / WEIGHTS_NAME
    save_file({name: t for name, t in load_file(path).items() if ".score." not in name}, path)
    with pytest.raises(CheckpointError, match="lacks score"):
        load_trained(str(tmp_path / "adapter"))
