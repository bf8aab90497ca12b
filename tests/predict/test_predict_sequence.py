"""Labels, several labels and values for a file of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmForSequenceClassification, GlmTokenizer
from glm_train.errors import ConfigError, DataError
from glm_train.predict.run import predict
from support.classifier_folder import make_classifier, read_lines, write_lines

TEXTS = ["Hello, how are you?", "今天北京的天气怎么样？", "<|user|> yes", "The answer is no. " * 20]


def logits_of(folder: Path, text: str) -> torch.Tensor:
    tokenizer = GlmTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode_plain(text)])
    with torch.inference_mode():
        return GlmForSequenceClassification.from_pretrained(folder).eval()(ids).logits[0].double()


def test_one_label(single: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": text, "id": 7} for text in TEXTS])
    summary = predict(str(single), source, tmp_path / "out.jsonl")
    found = read_lines(tmp_path / "out.jsonl")
    assert (summary.predicted, summary.faulty, [one["line"] for one in found]) == (4, 0, [1, 2, 3, 4])
    for text, one in zip(TEXTS, found, strict=True):
        chances = logits_of(single, text).softmax(0)
        assert list(one) == ["line", "label", "score", "scores"]
        assert list(one["scores"].values()) == pytest.approx(chances.tolist(), abs=1e-6)
        assert one["label"] == ["neg", "neu", "pos"][int(chances.argmax())]
        assert one["score"] == max(one["scores"].values())
        assert sum(one["scores"].values()) == pytest.approx(1)


def test_several_labels_and_their_threshold(several: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in TEXTS])
    predict(str(several), source, tmp_path / "half.jsonl")
    predict(str(several), source, tmp_path / "low.jsonl", threshold=0.3)
    half, low = read_lines(tmp_path / "half.jsonl"), read_lines(tmp_path / "low.jsonl")
    assert [one["labels"] for one in half] != [one["labels"] for one in low]
    for text, one, other in zip(TEXTS, half, low, strict=True):
        chances = logits_of(several, text).sigmoid().tolist()
        assert list(one["scores"].values()) == pytest.approx(chances, abs=1e-6)
        assert one["labels"] == [name for name, p in zip("abc", chances, strict=True) if p >= 0.5]
        assert other["labels"] == [name for name, p in zip("abc", chances, strict=True) if p >= 0.3]


@pytest.mark.parametrize("names", [("LABEL_0",), ("LABEL_0", "LABEL_1")])
def test_values(names: tuple[str, ...], tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", tiny_tokenizer_folder, names, "regression")
    source = write_lines(tmp_path / "in.txt", TEXTS)
    predict(str(folder), source, tmp_path / "out.jsonl")
    for text, one in zip(TEXTS, read_lines(tmp_path / "out.jsonl"), strict=True):
        found = [one["value"]] if len(names) == 1 else one["values"]
        assert found == pytest.approx(logits_of(folder, text).tolist(), abs=1e-5)


def test_tables_need_no_column_of_labels(single: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('id,Sentence\n1,"Yes, no"\n2,\n3,"two\nlines"\n4,a,b\n', encoding="utf-8")
    summary = predict(str(single), source, tmp_path / "out.jsonl", ["data.text_key=sentence"])
    found = read_lines(tmp_path / "out.jsonl")
    assert [(one["line"], "label" in one) for one in found] == [(2, True), (3, False), (4, True), (6, False)]
    assert (summary.predicted, summary.faulty) == (2, 2)
    assert summary.first_faults[0].startswith(f"{source}:3: ")
    assert "empty" in summary.first_faults[0]


def test_two_texts_and_long_ones(single: Path, tmp_path: Path) -> None:
    pairs = [{"text": "Is it?", "text_pair": "Yes. " * 30}, {"text": "Is it?"}]
    source = write_lines(tmp_path / "in.jsonl", pairs)
    summary = predict(str(single), source, tmp_path / "whole.jsonl")
    assert not summary.notes
    short = predict(str(single), source, tmp_path / "cut.jsonl", ["data.max_length=12"])
    assert short.notes == ["cut to data.max_length=12: 1 of the texts"]
    whole, cut = read_lines(tmp_path / "whole.jsonl"), read_lines(tmp_path / "cut.jsonl")
    assert whole[0]["scores"] != cut[0]["scores"]
    assert whole[1]["scores"] == pytest.approx(cut[1]["scores"])
    expected = logits_of(single, pairs[0]["text"] + "\n" + pairs[0]["text_pair"]).softmax(0).tolist()
    assert list(whole[0]["scores"].values()) == pytest.approx(expected, abs=1e-6)
    strict = ["data.max_length=12", "data.truncation=error"]
    predict(str(single), source, tmp_path / "strict.jsonl", strict)
    assert "Raise data.max_length" in read_lines(tmp_path / "strict.jsonl")[0]["error"]


def test_a_bad_line_has_an_error_in_its_place(single: Path, tmp_path: Path) -> None:
    lines: list[Any] = [{"text": "a"}, "{torn", {"txt": "b"}, {"text": None}, "", {"text": "c"}, '"\\ud800"']
    source = write_lines(tmp_path / "in.jsonl", lines)
    summary = predict(str(single), source, tmp_path / "out.jsonl")
    found = read_lines(tmp_path / "out.jsonl")
    assert [one["line"] for one in found] == [1, 2, 3, 4, 6, 7]
    assert ["error" in one for one in found] == [False, True, True, True, False, True]
    assert (summary.predicted, summary.faulty, len(summary.first_faults)) == (2, 4, 4)


def test_no_good_line_leaves_no_file(single: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"txt": "a"}, "{torn"])
    with pytest.raises(DataError, match=r"all of its 2 records cannot be read:\n.*in\.jsonl:1: "):
        predict(str(single), source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_the_end_of_a_table_may_be_unreadable(single: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text('text\ngood\n"open\n', encoding="utf-8")
    summary = predict(str(single), source, tmp_path / "out.jsonl")
    assert summary.incomplete
    assert ["error" in one for one in read_lines(tmp_path / "out.jsonl")] == [False, True]


@pytest.mark.parametrize(("threshold", "message"), [(1.0, "below 1"), (0.5, "several labels to one text")])
def test_a_threshold_without_effect(single: Path, tmp_path: Path, threshold: float, message: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a"}])
    with pytest.raises(ConfigError, match=message):
        predict(str(single), source, tmp_path / "out.jsonl", threshold=threshold)


def test_labels_of_any_letters(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = make_classifier(
        tmp_path / "model", tiny_tokenizer_folder, ("好", 'a"b'), "single_label_classification"
    )
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a"}])
    predict(str(folder), source, tmp_path / "out.jsonl")
    text = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert "好" in text
    assert set(json.loads(text)["scores"]) == {"好", 'a"b'}
