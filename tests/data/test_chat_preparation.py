"""Chat files through the real tokenizer: what is in the store is what `encode_chat` says, and faults name lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glm_train.data import prepare as prepare_module
from glm_train.data.chat_formats import parse_messages
from glm_train.data.prepare import prepare_chat
from glm_train.errors import ConfigError, DataError
from glm_train.text.chat import encode_chat
from glm_train.text.tokenizer import GlmTokenizer

CALL = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
RECORDS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am fine"}]},
    {
        "messages": [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "31"},
            {"role": "assistant", "content": "sunny"},
        ],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}],
    },
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<|user|> is only text"},
            {"role": "assistant", "content": "yes"},
        ]
    },
]


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
    )
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
def test_store_equals_encode_chat(
    tmp_path: Path, tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch, workers: int, train_on: str
) -> None:
    monkeypatch.setattr(prepare_module, "PARALLEL_BYTES", 0)
    path = write(tmp_path / "chat.jsonl", RECORDS)
    store = prepare_chat([path], tokenizer, train_on=train_on, cache_dir=tmp_path / "cache", workers=workers)
    for i, record in enumerate(RECORDS):
        expected = encode_chat(tokenizer, parse_messages(record), train_on=train_on)
        assert store[i][0].tolist() == expected.input_ids
        assert store[i][1].tolist() == expected.labels
        assert store.trained[i] == sum(label != -100 for label in expected.labels[1:])


def test_control_token_in_user_text_is_never_one(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    store = prepare_chat([write(tmp_path / "chat.jsonl", RECORDS[2:])], tokenizer)
    ids = store[0][0].tolist()
    assert ids.count(tokenizer.token_to_id("<|user|>")) == 2, "the user's header and the stop token"


def test_settings_are_part_of_the_cache_key(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    path = write(tmp_path / "chat.jsonl", RECORDS)
    cache = tmp_path / "cache"
    variants: list[dict[str, Any]] = [
        {},
        {"train_on": "all"},
        {"max_length": 500},
        {"max_length": 500, "truncation": "drop"},
        {"format": "messages"},
    ]
    stores = [prepare_chat([path], tokenizer, cache_dir=cache, **variant) for variant in variants]
    assert not any(store.report.cache_hit for store in stores)
    assert prepare_chat([path], tokenizer, cache_dir=cache, **variants[3]).report.cache_hit


def test_too_long_examples_are_left_out_and_counted(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    long = {"messages": [{"role": "user", "content": "x " * 500}, {"role": "assistant", "content": "y"}]}
    path = write(tmp_path / "chat.jsonl", [RECORDS[0], long])
    report = prepare_chat([path], tokenizer, max_length=50).report
    assert report.dropped == {"longer than data.max_length": 1}
    assert report.dropped_at == {"longer than data.max_length": (f"{path}:2",)}
    with pytest.raises(
        DataError, match=r"chat\.jsonl:2: the conversation has \d+ tokens, and data\.max_length is 50"
    ):
        prepare_chat([path], tokenizer, max_length=50, truncation="error")


def test_cut_and_shortened_are_counted(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    turns = [{"role": r, "content": c * 30} for r, c in (("user", "a "), ("assistant", "b ")) * 3]
    cut = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b " * 300}]}
    path = write(tmp_path / "c.jsonl", [{"messages": turns}, cut])
    report = prepare_chat([path], tokenizer, max_length=150).report
    assert (report.shortened, report.cut) == (1, 1)
    assert report.dropped_messages >= 2
    whole = prepare_chat([path], tokenizer).report
    assert report.dropped_tokens == whole.tokens - report.tokens > 0
    assert f"truncation left out {report.dropped_tokens:,} tokens" in str(report)
    assert report.longest <= 150


def test_faults_name_file_and_line(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    only_user = {"messages": [{"role": "user", "content": "x"}]}
    path = write(tmp_path / "chat.jsonl", [RECORDS[0], only_user])
    with pytest.raises(DataError) as caught:
        prepare_chat([path], tokenizer)
    assert str(caught.value).startswith(f"{path}:2: there is no assistant turn")


def test_wrong_settings_are_not_blamed_on_the_data(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    path = write(tmp_path / "chat.jsonl", RECORDS)
    with pytest.raises(ConfigError, match=r"data\.format='mesages' is unknown.*Did you mean 'messages'"):
        prepare_chat([path], tokenizer, format="mesages")
    with pytest.raises(ConfigError, match=r"data\.train_on='asistant'"):
        prepare_chat([path], tokenizer, train_on="asistant")
