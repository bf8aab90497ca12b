"""Rank files for the tests, and byte pair encoding over ranks written without the code under test."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import regex
from tokenizers import Tokenizer

from support.tiny_tokenizer import SPECIAL_TOKENS, SPLIT, make_tokenizer_folder

_WORDS = regex.compile(SPLIT)
BYTES = [bytes([byte]) for byte in range(256)]


def reference_ids(ranks: Mapping[bytes, int], text: str) -> list[int]:
    """tiktoken's rule: a word that is a token is one; else the neighbours whose joint token has the lowest
    rank are merged, the leftmost first, until no neighbours make a token."""
    ids = []
    for word in _WORDS.findall(text):
        parts = [bytes([byte]) for byte in word.encode()]
        if word.encode() in ranks:
            parts = [word.encode()]
        while len(parts) > 1:
            pairs = [left + right for left, right in pairwise(parts)]
            best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], 10**9))
            if pairs[best] not in ranks:
                break
            parts[best : best + 2] = [pairs[best]]
        ids += [ranks[part] for part in parts]
    return ids


def rank_lines(ranks: Mapping[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def ranks_of(backend: Tokenizer) -> dict[bytes, int]:
    """The base vocabulary of a byte-level tokenizer, as ranks: its ids are in the order of its merges."""
    specials = {token.content for token in backend.get_added_tokens_decoder().values()}
    return {
        b"".join(_byte(char) for char in token): id_
        for token, id_ in sorted(backend.get_vocab().items(), key=lambda pair: pair[1])
        if token not in specials
    }


def _byte(char: str) -> bytes:
    """The byte that `char` stands for in byte-level vocabularies."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return bytes([ord(char) if ord(char) in shown else hidden[ord(char) - 0x100]])


def make_rank_folder(folder: Path, ranks: Mapping[bytes, int] | None = None, **config: Any) -> Path:
    """A folder of the older ChatGLM layout: tokenizer.model, and a tokenizer_config.json that names the code
    which read it. The ranks are those of the tiny tokenizer where none are given."""
    made = make_tokenizer_folder(folder, template="")
    if ranks is None:
        ranks = ranks_of(Tokenizer.from_file(str(made / "tokenizer.json")))
    (made / "tokenizer.json").unlink()
    (made / "tokenizer.model").write_bytes(rank_lines(ranks))
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    usual: dict[str, Any] = {
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        "added_tokens_decoder": {
            str(len(ranks) + i): {"content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)
        },
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "chat_template": "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    (made / "tokenizer_config.json").write_text(json.dumps(usual | config), encoding="utf-8")
    return made
