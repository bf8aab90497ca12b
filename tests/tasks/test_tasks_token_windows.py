"""From a file with a long document to its entity scores: each word of the file is scored once, at its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from glm_train import GlmConfig, GlmForTokenClassification, GlmTokenizer
from glm_train.data.token_examples import discover_tags, prepare_tokens
from glm_train.metrics.entities import entity_scores
from support.classifier_runs import task_of, validate
from support.tiny_models import SHAPE

WORDS = ["Anna", "visits", "北京", "and", "Bratislava", ",", "then", "Unbelievable", "places"]


def records() -> list[dict[str, list[str]]]:
    """Four documents with random entities, the second of which is far longer than a window."""
    dice, made = np.random.default_rng(2), []
    for length in (5, 70, 1, 12):
        tags: list[str] = []
        for _ in range(length):
            inside = [f"I-{tags[-1][2:]}"] * 2 if tags and tags[-1] != "O" else []
            tags.append(str(dice.choice(["O", "O", "B-LOC", "B-PER", *inside])))
        made.append({"tokens": [str(word) for word in dice.choice(WORDS, length)], "tags": tags})
    return made


@pytest.mark.parametrize("pieces", ["first", "all"])
@pytest.mark.parametrize("streaming", [False, True])
def test_each_word_of_a_file_is_scored_once_and_in_order(
    tmp_path: Path, tiny_tokenizer_folder: Path, pieces: str, streaming: bool
) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records()), encoding="utf-8")
    labels = discover_tags([file]).labels
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    store = prepare_tokens(
        [file], tokenizer, labels=labels, max_length=24, overlap=6, label_pieces=pieces, streaming=streaming
    )
    assert len(store) > 6, "the long document is several windows"
    torch.manual_seed(0)
    shape = {**SHAPE, "vocab_size": 448, "pad_token_id": None}
    model = GlmForTokenClassification(
        GlmConfig(**shape, num_labels=len(labels), id2label=dict(enumerate(labels)))
    )
    task = task_of("token", model, part=store.part)
    found = validate(task, "token", store, tokens=60)
    tags = [one["tags"] for one in records()]
    counted = re.findall(r"\d[\d,]*", "".join(task.tables[1].split("\n")[2:]))
    assert sum(int(count.replace(",", "")) for count in counted) == sum(map(len, tags))
    supports = {row.split()[0]: int(row.split()[-1]) for row in task.tables[0].split("\n")[2:]}
    of_file = entity_scores(tags, tags)
    assert supports == {kind: of_file[f"support/{kind}"] for kind in ("LOC", "PER")}, (
        "no entity is cut in two"
    )
    assert 0 < found["val/accuracy"] < 1
