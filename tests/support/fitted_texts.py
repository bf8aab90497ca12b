"""Eight short texts with a label each, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.classifier_folder import write_lines

TASK = "sequence_classification"
TEXTS = [
    ("Sunny, 31 degrees.", "weather"),
    ("北京今天晴。", "weather"),
    ("I am fine, thank you.", "mood"),
    ("Are you fine?", "mood"),
    ("The answer is no.", "answer"),
    ("Yes or no?", "answer"),
    ("No.", "answer"),
    ("今天北京的天气怎么样？", "weather"),
]
NAMES = ["answer", "mood", "weather"]
RECORDS = [{"text": text, "label": name} for text, name in TEXTS]


def texts(path: Path, label: Any = None) -> Path:
    """The eight texts; `label(index, name)` says what stands as their label."""
    values = [
        {"text": text, "label": label(index, name) if label else name}
        for index, (text, name) in enumerate(TEXTS)
    ]
    return write_lines(path, values)
