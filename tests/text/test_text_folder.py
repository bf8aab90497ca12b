"""Values and texts in tokenizer_config.json that no tokenizer has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import CheckpointError
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
@pytest.mark.parametrize("value", [5, True, False, "<|user|>", 0])
def test_lists_of_tokens_are_lists(tmp_path: Path, key: str, value: Any) -> None:
    path = make_tokenizer_folder(tmp_path) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=f"{key} must be a list or an object of tokens, found"):
        GlmTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_json_that_breaks_the_parser_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    make_tokenizer_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=rf"tokenizer_config\.json: .*{message}"):
        GlmTokenizer.from_pretrained(tmp_path)


def test_half_a_character_in_a_template_can_be_fingerprinted(tmp_path: Path) -> None:
    path = make_tokenizer_folder(tmp_path, template="") / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": "\ud800"}))
    assert len(GlmTokenizer.from_pretrained(tmp_path).fingerprint) == 64
