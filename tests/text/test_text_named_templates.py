"""Named chat templates in `additional_chat_templates/`, as transformers 5 saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from glm_train.errors import CheckpointError
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder

CHAT = [{"role": "user", "content": "hi"}]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that transformers 5 saved after `tokenizer.chat_template` was given two templates."""
    theirs = AutoTokenizer.from_pretrained(make_tokenizer_folder(tmp_path / "made"))
    theirs.chat_template = {"default": "plain {{ messages[0].content }}", "tool_use": "{{ tools[0].type }}"}
    theirs.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_tools_use_the_template_for_tools_as_in_transformers(folder: Path) -> None:
    ours, theirs = GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for tools, text in ((None, "plain hi"), (TOOLS, "function")):
        assert theirs.apply_chat_template(CHAT, tools=tools, tokenize=False) == text
        assert ours.apply_chat_template(CHAT, tools=tools, tokenize=False) == text


def test_named_templates_are_saved_and_fingerprinted(folder: Path, tmp_path: Path) -> None:
    ours = GlmTokenizer.from_pretrained(folder)
    ours.save_pretrained(tmp_path / "again")
    name = "additional_chat_templates/tool_use.jinja"
    assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    assert GlmTokenizer.from_pretrained(tmp_path / "again").fingerprint == ours.fingerprint
    (folder / name).write_text("other")
    assert GlmTokenizer.from_pretrained(folder).fingerprint != ours.fingerprint


def test_template_files_replace_those_of_the_configuration(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    tokenizer = GlmTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template(CHAT, tools=TOOLS, tokenize=False) == "function"
    with pytest.raises(CheckpointError, match="chat templates tool_use, and none named 'default'"):
        tokenizer.apply_chat_template(CHAT)


def test_a_broken_named_template_is_named(folder: Path) -> None:
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{% if %}")
    with pytest.raises(
        CheckpointError, match=r"additional_chat_templates/tool_use\.jinja:1: not a valid Jinja"
    ):
        GlmTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tools=TOOLS)
