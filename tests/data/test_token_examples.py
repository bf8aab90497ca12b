"""Records of token classification as examples: the right class at the right piece, every word once."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train.data.store import CONTINUES, IGNORE, ExampleStore
from glm_train.data.token_examples import NO_WORD, TokenEncoder, prepare_tokens
from glm_train.errors import ConfigError, DataError
from glm_train.tagging.schemes import label_names
from glm_train.text.tokenizer import GlmTokenizer

LABELS = tuple(label_names(["LOC", "PER"]))  # O B-LOC I-LOC B-PER I-PER


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def encode(tokenizer: GlmTokenizer, value: dict[str, Any], **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    (example,) = TokenEncoder(tokenizer, LABELS, **settings)(value)
    assert len(example.input_ids) == len(example.labels)
    assert example.input_ids.dtype == example.labels.dtype == np.int32
    return example.input_ids, example.labels


def labelled(tokenizer: GlmTokenizer, ids: np.ndarray, labels: np.ndarray) -> list[tuple[str, str]]:
    """(what follows up to the next labelled piece, its class) of each labelled piece."""
    places = [*np.flatnonzero(labels != IGNORE).tolist(), len(ids)]
    return [(tokenizer.decode(ids[a:b]).strip(), LABELS[labels[a]]) for a, b in pairwise(places)]


ANNA = [("Anna", "B-PER"), ("Lee", "I-PER"), ("in", "O"), ("New", "B-LOC"), ("York", "I-LOC"), (".", "O")]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("IOB1", "I-PER I-PER O I-LOC I-LOC O"),
        ("IOB2", "B-PER I-PER O B-LOC I-LOC O"),
        ("IOBES", "B-PER E-PER O B-LOC E-LOC O"),
    ],
)
def test_one_class_a_word_whatever_the_scheme(tokenizer: GlmTokenizer, scheme: str, tags: str) -> None:
    value = {"tokens": [word for word, _ in ANNA], "tags": tags.split()}
    ids, labels = encode(tokenizer, value, scheme=scheme)
    assert ids.tolist() == tokenizer("Anna Lee in New York .").input_ids
    assert labelled(tokenizer, ids, labels) == ANNA


def test_entities_by_character_give_the_same(tokenizer: GlmTokenizer) -> None:
    entities = [{"start": 0, "end": 8, "label": "PER"}, {"start": 12, "end": 20, "label": "LOC"}]
    ids, labels = encode(tokenizer, {"text": "Anna Lee in New York .", "entities": entities})
    assert labelled(tokenizer, ids, labels) == ANNA


def test_chinese_has_a_class_a_character(tokenizer: GlmTokenizer) -> None:
    expected = [("我", "O"), ("在", "O"), ("北", "B-LOC"), ("京", "I-LOC"), ("。", "O")]
    entity = {"start": 2, "end": 4, "label": "LOC"}
    ids, labels = encode(tokenizer, {"text": "我在北京。", "entities": [entity]})
    assert labelled(tokenizer, ids, labels) == expected
    same, _ = encode(tokenizer, {"tokens": list("我在北京。"), "tags": [tag for _, tag in expected]})
    assert same.tolist() == ids.tolist()
    assert ids.tolist() == [id_ for character in "我在北京。" for id_ in tokenizer(character).input_ids]


def test_all_pieces_of_a_word(tokenizer: GlmTokenizer) -> None:
    value = {"tokens": ["Anna", "in", "2018"], "tags": ["B-PER", "O", "B-LOC"]}
    ids, first = encode(tokenizer, value)
    same, labels = encode(tokenizer, value, label_pieces="all")
    (example,) = TokenEncoder(tokenizer, LABELS, label_pieces="all")(value)
    assert same.tolist() == ids.tolist()
    kept = np.where((labels >= CONTINUES) | (labels == IGNORE), IGNORE, labels)
    assert kept.tolist() == first.tolist()
    words = np.where(labels >= CONTINUES, labels - CONTINUES, labels).tolist()
    assert words == [3] * 4 + [0] + [IGNORE] + [1] * 4  # a blank before a number is a piece of no word
    assert example.trained == int((labels != IGNORE).sum()) == 9


def test_the_parts_of_a_long_document_label_every_word_once(tokenizer: GlmTokenizer) -> None:
    tokens, tags = ["Anna", "is", "in", "York"] * 30, ["B-PER", "O", "O", "B-LOC"] * 30
    parts = TokenEncoder(tokenizer, LABELS, max_length=40, overlap=10)({"tokens": tokens, "tags": tags})
    assert len(parts) > 5
    assert max(len(part.input_ids) for part in parts) <= 40
    classes = [LABELS[label] for part in parts for label in part.labels if label != IGNORE]
    assert classes == tags
    assert [part.trained for part in parts] == [int((part.labels != IGNORE).sum()) for part in parts]


@pytest.mark.parametrize("value", [{"tokens": [], "tags": []}, {"text": " \n", "entities": []}])
def test_a_record_without_words_is_left_out(tokenizer: GlmTokenizer, value: dict[str, Any]) -> None:
    (example,) = TokenEncoder(tokenizer, LABELS)(value)
    assert example.dropped == NO_WORD


def test_unknown_types_name_the_nearest(tokenizer: GlmTokenizer) -> None:
    with pytest.raises(
        DataError, match=r"word 2, 'b': the type 'PERS' is not among the labels: LOC, PER\. Did you mean"
    ):
        TokenEncoder(tokenizer, LABELS)({"tokens": ["a", "b"], "tags": ["O", "B-PERS"]})
    with pytest.raises(DataError, match=r"the tag 'NNP' is not among the labels: NN, VB\. Did you mean 'NN'"):
        TokenEncoder(tokenizer, ("NN", "VB"), "plain")({"tokens": ["a", "b"], "tags": ["VB", "NNP"]})


def test_plain_tags_are_classes_of_words(tokenizer: GlmTokenizer) -> None:
    (example,) = TokenEncoder(tokenizer, ("NN", "VB"), "plain")({"tokens": ["a", "b"], "tags": ["VB", "NN"]})
    assert example.labels[example.labels != IGNORE].tolist() == [1, 0]


def test_settings_are_checked(tokenizer: GlmTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"data\.label_pieces='frist' is unknown.*Did you mean 'first'"):
        TokenEncoder(tokenizer, LABELS, label_pieces="frist")
    with pytest.raises(ConfigError, match=r"data\.overlap=9: must be"):
        TokenEncoder(tokenizer, LABELS, max_length=8, overlap=9)
    with pytest.raises(ConfigError, match=r"data\.format='conl' is unknown.*Did you mean 'conll'"):
        prepare_tokens([], tokenizer, LABELS, format="conl")


def test_all_that_decides_labels_is_a_setting(tokenizer: GlmTokenizer) -> None:
    base = TokenEncoder(tokenizer, LABELS)
    changes: list[dict[str, Any]] = [
        {"labels": LABELS[:3]},
        {"scheme": "IOB1"},
        {"tag_names": ("O",)},
        {"max_length": 9},
        {"max_length": 9, "overlap": 1},
        {"label_pieces": "all"},
        {"causal": True},
    ]
    others = [TokenEncoder(**{"tokenizer": tokenizer, "labels": LABELS, **change}) for change in changes]
    digests = {json.dumps(encoder.settings(), sort_keys=True) for encoder in [base, *others]}
    assert len(digests) == 1 + len(changes)
    assert pickle.loads(pickle.dumps(base)).settings() == base.settings()


CONLL = "Anna\tB-PER\nsings\tO\n\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n"


def counts(store: ExampleStore) -> Counter[str]:
    return Counter(LABELS[label] for i in range(len(store)) for label in store[i][1] if label != IGNORE)


def test_files_of_every_kind_become_the_same_examples(tokenizer: GlmTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    (tmp_path / "b.txt").write_text("\ufeff" + CONLL.replace("\t", "  ").replace("\n", "\r\n"))
    (tmp_path / "c.jsonl").write_text(
        '{"tokens": ["Anna", "sings"], "ner_tags": [3, 0]}\n{"tokens": ["in", "New", "York"], "ner_tags": [0, 1, 2]}\n'
    )
    (tmp_path / "d.json").write_text(
        '[{"text": "Anna sings", "entities": [{"start": 0, "end": 4, "label": "PER"}]},'
        ' {"text": "in New York", "entities": [{"start": 3, "end": 11, "label": "LOC"}]}]'
    )
    stores = [
        prepare_tokens([tmp_path / "a.conll"], tokenizer, LABELS),
        prepare_tokens([tmp_path / "b.txt"], tokenizer, LABELS, format="conll"),
        prepare_tokens([tmp_path / "c.jsonl"], tokenizer, LABELS, tag_names=LABELS),
        prepare_tokens([tmp_path / "d.json"], tokenizer, LABELS),
        prepare_tokens([tmp_path / "c.jsonl"], tokenizer, LABELS, tag_names=LABELS, streaming=True),
    ]
    for store in stores:
        assert [[row.tolist() for row in store[i]] for i in (0, 1)] == [
            [row.tolist() for row in stores[0][i]] for i in (0, 1)
        ]
        assert counts(store) == {"B-PER": 1, "B-LOC": 1, "I-LOC": 1, "O": 2}
        assert store.trained.tolist() == [2, 3]
    assert stores[0].source(1) == (str(tmp_path / "a.conll"), 4)


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_the_report_counts_what_is_labelled(tokenizer: GlmTokenizer, tmp_path: Path, pieces: str) -> None:
    (tmp_path / "a.conll").write_text(CONLL)
    report = prepare_tokens([tmp_path / "a.conll"], tokenizer, LABELS, label_pieces=pieces).report
    labelled = report.trained_tokens
    assert (labelled == 5) == (pieces == "first")
    words = f"5 words labelled of {report.tokens} tokens"
    said = words if pieces == "first" else f"{labelled} of {report.tokens} tokens labelled"
    assert str(report).startswith(f"2 examples, {said}, longest ")


def test_windows_are_parts_of_their_record(tokenizer: GlmTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("A\tO\n\n" + "Anna\tB-PER\nx\tO\n" * 20)
    store = prepare_tokens([path], tokenizer, LABELS, max_length=32)
    assert [store.source(i)[1] for i in range(len(store))] == [1] + [3] * (len(store) - 1)
    assert [store.part(i) for i in range(1, len(store))] == list(range(len(store) - 1))
    assert len(store) > 3
    assert counts(store) == {"O": 21, "B-PER": 20}


def test_a_fault_has_the_line_of_its_word(tokenizer: GlmTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("A\tO\n\nB\tB-PER\nC\tB-PERS\n\nD\tO\n")
    with pytest.raises(DataError, match=f"^{path}:4: word 2, 'C': the type 'PERS'"):
        prepare_tokens([path], tokenizer, LABELS)
    store = prepare_tokens([path], tokenizer, LABELS, on_error="skip")
    assert [store.source(i)[1] for i in range(len(store))] == [1, 6]


def test_files_for_evaluation_may_have_no_entity(tokenizer: GlmTokenizer, tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("A\tO\n")
    assert counts(prepare_tokens([path], tokenizer, LABELS)) == {"O": 1}
