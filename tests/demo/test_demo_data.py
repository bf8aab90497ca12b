"""The data files of a finished demo: their format, their splits, and what a newcomer will ask."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from glm_train.demo.selection import QUESTIONS_TO_TRY

PARTS = ("train", "validation")


def _chats(demo: Path, part: str) -> list[list[dict[str, Any]]]:
    lines = (demo / "chat" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert all(list(record) == ["messages"] for record in records)
    return [record["messages"] for record in records]


@pytest.mark.parametrize("part", PARTS)
def test_chats_alternate_and_end_with_an_answer(demo: Path, part: str) -> None:
    for messages in _chats(demo, part):
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert all(m["content"] and m["content"] == m["content"].strip() for m in messages)


def test_chats_are_readable_multilingual_and_some_have_several_turns(demo: Path) -> None:
    text = (demo / "chat" / "train.jsonl").read_text(encoding="utf-8")
    assert "\\u" not in text
    assert "仙女座星系" in text
    assert "Wie geht es dir?" in text
    turns = Counter(len(messages) for messages in _chats(demo, "train"))
    assert turns[2] > 600
    assert sum(count for length, count in turns.items() if length > 2) >= 20


def test_every_context_has_one_answer(demo: Path) -> None:
    answers: dict[tuple[str, ...], str] = {}
    for part in PARTS:
        for messages in _chats(demo, part):
            said = tuple(m["content"].casefold() for m in messages)
            for place in range(1, len(messages), 2):
                answer = messages[place]["content"]
                assert answers.setdefault(said[:place], answer) == answer


def test_chat_splits_share_no_question_and_sizes_are_sane(demo: Path) -> None:
    first = {part: {messages[0]["content"].casefold() for messages in _chats(demo, part)} for part in PARTS}
    assert not first["train"] & first["validation"]
    assert 0.03 < len(first["validation"]) / len(first["train"]) < 0.10


def test_the_questions_to_try_are_trained(demo: Path) -> None:
    trained = {messages[0]["content"] for messages in _chats(demo, "train")}
    assert set(QUESTIONS_TO_TRY) <= trained


def test_topics_have_the_same_labels_in_both_parts_and_no_shared_text(demo: Path) -> None:
    rows = {}
    for part in PARTS:
        with (demo / "topics" / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            rows[part] = list(csv.DictReader(file))
        assert rows[part]
        assert all(list(row) == ["text", "label"] and row["text"] and row["label"] for row in rows[part])
    labels = {part: {row["label"] for row in rows[part]} for part in PARTS}
    assert labels["train"] == labels["validation"]
    assert len(labels["train"]) >= 10
    texts = {part: {row["text"].casefold() for row in rows[part]} for part in PARTS}
    assert not texts["train"] & texts["validation"]
    assert len(texts["train"]) == len(rows["train"])


def _sentences(demo: Path, part: str) -> list[list[list[str]]]:
    text = (demo / "entities" / f"{part}.conll").read_text(encoding="utf-8")
    assert text.endswith("\n\n")
    return [
        [line.split("\t") for line in block.split("\n")] for block in text.removesuffix("\n\n").split("\n\n")
    ]


@pytest.mark.parametrize("part", PARTS)
def test_entities_are_iob2(demo: Path, part: str) -> None:
    for sentence in _sentences(demo, part):
        before = "O"
        for token, tag in sentence:
            assert token
            assert not any(c.isspace() for c in token)
            assert tag == "O" or tag[:2] in ("B-", "I-")
            if tag.startswith("I-"):
                assert before[1:] == tag[1:]
            before = tag


def test_entity_splits_are_disjoint_and_validation_has_no_unseen_label(demo: Path) -> None:
    parts = {part: _sentences(demo, part) for part in PARTS}
    texts = {part: {"".join(token for token, _ in s) for s in sentences} for part, sentences in parts.items()}
    assert not texts["train"] & texts["validation"]
    tags = {part: {tag for s in sentences for _, tag in s} for part, sentences in parts.items()}
    assert tags["validation"] <= tags["train"]
    assert len(parts["train"]) > 400
    assert len(parts["validation"]) > 30
