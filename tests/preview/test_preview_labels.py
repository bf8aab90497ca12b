"""The preview of classification shows each word or text with its label, and counts every label once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train.data.encode import Encoded
from glm_train.data.prepare import prepare
from glm_train.data.store import ExampleStore
from glm_train.data.token_examples import prepare_tokens
from glm_train.preview.labels import CONTEXT, LabelPreview
from glm_train.tagging.schemes import label_names
from glm_train.text.tokenizer import GlmTokenizer

LABELS = label_names(["LOC", "PER"])
ENGLISH = "Anna\tB-PER\nLee\tI-PER\nBo\tB-PER\nin\tO\nNew\tB-LOC\nYork\tI-LOC\n,\tO\n2018\tB-LOC\n"
CHINESE = "我\tO\n北\tB-LOC\n京\tI-LOC\n"


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def store_of(folder: Path, tokenizer: GlmTokenizer, content: str, **settings: Any) -> ExampleStore:
    path = folder / "a.conll"
    path.write_text(content)
    return prepare_tokens([path], tokenizer, LABELS, **settings)


@pytest.mark.parametrize("pieces", ["first", "all"])
def test_words_and_entities(tmp_path: Path, tokenizer: GlmTokenizer, pieces: str) -> None:
    store = store_of(tmp_path, tokenizer, f"{ENGLISH}\n{CHINESE}", label_pieces=pieces)
    preview = LabelPreview(tokenizer, LABELS, "tokens", store)
    first, second = preview.examples()
    assert preview.parts(first) == [
        ("PER", "Anna Lee"),
        ("O", " "),
        ("PER", "Bo"),
        ("O", " in "),
        ("LOC", "New York"),
        ("O", " , "),
        ("LOC", "2018"),
    ]
    assert preview.line(first, colour=False) == "⟦Anna Lee⟧PER ⟦Bo⟧PER in ⟦New York⟧LOC , ⟦2018⟧LOC"
    assert preview.line(second, colour=False) == "我⟦北京⟧LOC"
    words = [f"{word['text']}\t{word['label']}\n" for word in preview.json(first)["words"]]
    assert "".join(words) == ENGLISH
    assert (second.line, second.part, second.split) == (10, 0, "train")


def test_colours_and_marks_hold_the_whole_text(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    store = store_of(tmp_path, tokenizer, "<b>\tB-PER\n&\tO\nx\tO\n")
    preview = LabelPreview(tokenizer, LABELS, "tokens", store)
    (example,) = preview.examples()
    bare = re.sub(r"\x1b\[[\d;]*m", "", preview.line(example, colour=True))
    assert bare == "<b>/PER & x"
    assert "&lt;b&gt;<sub>PER</sub></span> &amp; x" in preview.html(example)


def test_words_of_other_windows_are_context(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    english = "".join(f"w{n}\t{'B-PER' if n % 3 == 0 else 'O'}\n" for n in range(40))
    store = store_of(tmp_path, tokenizer, english + "京\tB-LOC\n" * 30, max_length=40, overlap=12)
    preview = LabelPreview(tokenizer, LABELS, "tokens", store)
    shown = list(preview.examples())
    assert len(shown) > 3
    words = [word["text"] for example in shown for word in preview.json(example)["words"]]
    assert words == [f"w{n}" for n in range(40)] + ["京"] * 30
    assert preview.parts(shown[0])[-1][0] == CONTEXT
    assert preview.parts(shown[1])[0][0] == CONTEXT
    assert preview.report.train.windows == len(shown) - 1
    for example in shown:
        text = "".join(part for _, part in preview.parts(example))
        assert text == tokenizer.decode(example.input_ids)
        labelled = sum(kind != CONTEXT for kind in preview.kinds(example))
        assert labelled == len(preview.json(example)["words"])


def test_the_report_counts_words_and_entities(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    train = store_of(tmp_path, tokenizer, f"{ENGLISH}\n{CHINESE}")
    copies = store_of(tmp_path, tokenizer, f"{CHINESE}\nx\tB-PER\n")
    report = LabelPreview(tokenizer, LABELS, "tokens", train, copies, leakage=0.1).report
    assert report.train.counts == {"O": 3, "B-LOC": 3, "I-LOC": 2, "B-PER": 2, "I-PER": 1}
    assert report.train.entities == {"LOC": 3, "PER": 2}
    assert (report.train.records, report.train.trained) == (2, 11)
    assert report.validation is not None
    assert report.validation_also_in_training == 1
    assert report.faults[0].startswith("leakage: 1 of 2 validation examples (50.0%)")
    assert report.as_json()["train"]["entities"] == {"LOC": 3, "PER": 2}
    assert any(re.search(r"LOC +3  #+$", line) for line in report.lines())


def test_types_without_an_example_are_noted(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    store = store_of(tmp_path, tokenizer, "A\tB-PER\n")
    report = LabelPreview(tokenizer, LABELS, "tokens", store).report
    assert report.notes == ["train: no example has LOC"]
    assert report.faults == []


class Texts:
    """Labels as they stand in the record."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, value: dict[str, Any]) -> list[Encoded]:
        labels = np.asarray(value["labels"])
        real = labels.dtype == np.float64
        labels = labels.astype(np.float32).view(np.int32) if real else labels.astype(np.int32)
        return [Encoded(np.asarray(self.tokenizer.encode_plain(value["text"]), np.int32), labels, 1)]

    def settings(self) -> dict[str, Any]:
        return {"texts": self.tokenizer.fingerprint}


TEXTS: dict[str, tuple[str, str, list[str], dict[str, int]]] = {
    "single_label": ("[1]", "[0]", ["b", "a"], {"a": 1, "b": 1, "c": 0}),
    "multi_label": ("[1, 0, 1]", "[0, 0, 0]", ["a, c", "none"], {"a": 1, "b": 0, "c": 1}),
    "regression": ("[0.5]", "[2.0]", ["0.5", "2"], {}),
}


@pytest.mark.parametrize("problem", TEXTS)
def test_texts_with_their_answers(tmp_path: Path, tokenizer: GlmTokenizer, problem: str) -> None:
    one, two, answers, counts = TEXTS[problem]
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good <b>", "labels": {one}}}\n{{"text": "bad", "labels": {two}}}\n')
    preview = LabelPreview(tokenizer, "abc", problem, prepare([path], Texts(tokenizer)))
    shown = list(preview.examples())
    assert [preview.answer(example) for example in shown] == answers
    assert preview.line(shown[0], colour=False) == f"good <b> -> {answers[0]}"
    assert preview.html(shown[0]).startswith("good &lt;b&gt; → ")
    assert preview.report.train.counts == counts
    assert preview.json(shown[1])["label"] == ([] if answers[1] == "none" else [answers[1]])
    if problem == "regression":
        assert preview.report.train.values == {"mean": 1.25, "deviation": 0.75, "least": 0.5, "most": 2.0}
