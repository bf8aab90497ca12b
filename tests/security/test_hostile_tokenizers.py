"""A tokenizer.json whose parts make pages out of words, or whose size is no tokenizer's, is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import CheckpointError
from glm_train.text import folder as folder_module
from glm_train.text.tokenizer import GlmTokenizer

DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
MANY = [{"Sequence": {"id": "A", "type_id": 0}}] * 200
PARTS: dict[str, dict[str, Any]] = {
    "doubling normalizer": {"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 24}},
    "prepending normalizer": {"normalizer": {"type": "Prepend", "prepend": "x" * 1000}},
    "doubling decoder": {"decoder": {"type": "Sequence", "decoders": [DOUBLE] * 24}},
    "long template": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": MANY,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {},
        }
    },
}


@pytest.fixture
def folder(tmp_path: Path, tiny_tokenizer_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_tokenizer_folder, tmp_path / "tokenizer"))


@pytest.mark.parametrize("case", PARTS)
def test_parts_that_no_glm_tokenizer_has_are_refused(folder: Path, case: str) -> None:
    path = folder / "tokenizer.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **PARTS[case]}), encoding="utf-8"
    )
    (part,) = PARTS[case]
    with pytest.raises(CheckpointError, match=f"tokenizer.json: the {part} .* is not one of a GLM tokenizer"):
        GlmTokenizer.from_pretrained(folder)


def test_a_file_larger_than_any_tokenizer_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_MOST_BYTES", 100)
    with pytest.raises(CheckpointError, match="too many for a tokenizer's file"):
        GlmTokenizer.from_pretrained(folder)
