"""A tiny model folder with its tokenizer, and chats to train it on."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from glm_train import GlmConfig, GlmForCausalLM, GlmTokenizer
from support.tiny_models import SHAPE

CHATS = [
    ("Hello", "Hi there."),
    ("你好", "你好，你是谁？"),
    ("What is the weather?", "Sunny, 31 degrees."),
    ("今天北京的天气怎么样？", "北京今天晴。"),
    ("Are you fine?", "I am fine, thank you."),
    ("Yes or no?", "The answer is no."),
]


def make_model_folder(path: Path, tokenizer_folder: Path, **changes: Any) -> Path:
    """A random GLM that belongs to the tokenizer of `tokenizer_folder`, which is copied beside it."""
    shutil.copytree(tokenizer_folder, path)
    tokenizer = GlmTokenizer.from_pretrained(path)
    special = tokenizer.special_tokens
    shape = {
        **SHAPE,
        "vocab_size": 448,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "initializer_range": 0.1,
        "pad_token_id": special["<|endoftext|>"],
        "eos_token_id": [special["<|endoftext|>"], special["<|user|>"], special["<|observation|>"]],
        **changes,
    }
    torch.manual_seed(0)
    GlmForCausalLM(GlmConfig(**shape)).save_pretrained(path)
    return path


def chat_line(*turns: tuple[str, str]) -> str:
    """One record of a `messages` file."""
    messages = [
        {"role": role, "content": content}
        for question, answer in turns
        for role, content in (("user", question), ("assistant", answer))
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def write_chats(path: Path, repeats: int = 1) -> Path:
    """`CHATS` as single-turn conversations, and each with the next one as conversations of two turns."""
    lines = [chat_line(chat) for chat in CHATS]
    lines += [chat_line(first, second) for first, second in pairwise(CHATS)]
    path.write_text("\n".join(lines * repeats) + "\n", encoding="utf-8")
    return path
