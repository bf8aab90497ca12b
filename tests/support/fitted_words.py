"""Six short sentences with a tag a word, as files."""

from __future__ import annotations

from pathlib import Path

TASK = "token_classification"
SENTENCES = [
    "Anna/B-PER Lee/I-PER sings/O in/O Paris/B-LOC",
    "Weather/O in/O Bratislava/B-LOC ,/O says/O Bob/B-PER",
    "北京/B-LOC 今天/O 晴/O",
    "Nothing/O here/O",
    "Rio/B-LOC de/I-LOC Janeiro/I-LOC and/O Anna/B-PER",
    "Bob/B-PER is/O fine/O",
]
NAMES = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def words(sentence: str) -> list[tuple[str, str]]:
    return [tuple(word.rsplit("/", 1)) for word in sentence.split()]  # type: ignore[misc]


def conll(path: Path, sentences: list[str] = SENTENCES) -> Path:
    blocks = ["".join(f"{word}\t{tag}\n" for word, tag in words(one)) for one in sentences]
    path.write_text("\n".join(blocks), encoding="utf-8")
    return path


def record(sentence: str) -> dict[str, list[str]]:
    tokens, tags = zip(*words(sentence), strict=True)
    return {"tokens": list(tokens), "tags": list(tags)}


RECORDS = [record(one) for one in SENTENCES]
