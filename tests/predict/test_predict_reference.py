"""What `evaluate` prints equals what seqeval and scikit-learn compute from the file that `predict` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score, mean_absolute_error, mean_squared_error, roc_auc_score

from glm_train.errors import DataError
from glm_train.predict.run import evaluate, predict
from glm_train.tagging.schemes import Span, read_tags, to_iob2
from support.classifier_folder import make_classifier, read_lines, write_lines

WORDS = [
    "Hello",
    "Beijing",
    "weather",
    "today",
    "yes",
    "no",
    "北",
    "京",
    "你好",
    "thank",
    ".",
    "31",
    "answer",
    "xyz",
]


def sentences(count: int, longest: int = 12) -> list[list[str]]:
    dice = np.random.default_rng(7)
    return [[str(w) for w in dice.choice(WORDS, int(dice.integers(1, longest)))] for _ in range(count)]


def predicted_tags(folder: Path, tokens: list[list[str]], place: Path, *settings: str) -> list[list[str]]:
    source = write_lines(place / "in.jsonl", [{"tokens": one} for one in tokens])
    predict(str(folder), source, place / "out.jsonl", settings, overwrite=True)
    return [one["tags"] for one in read_lines(place / "out.jsonl")]


def half_right(tags: list[list[str]]) -> list[list[str]]:
    """Gold tags of which some entities are other ones than those predicted."""
    dice = np.random.default_rng(3)
    gold = []
    for one in tags:
        spans = []
        for start, end, kind in read_tags(one, "IOB2"):
            fate = dice.random()
            if fate < 0.5:
                spans.append(Span(start, end, kind))
            elif fate < 0.7:
                spans.append(Span(start, end, "LOC" if kind == "PER" else "PER"))
            elif fate < 0.85:
                spans.append(Span(start, start + 1, kind))
        gold.append(to_iob2(spans, len(one)))
    return gold


def in_iobes(tags: list[str]) -> list[str]:
    after = [*tags[1:], "O"]
    last = [f"I-{tag[2:]}" != following for tag, following in zip(tags, after, strict=True)]
    letters = {("B", True): "S", ("I", True): "E"}
    return [letters.get((t[0], end), t[0]) + t[1:] for t, end in zip(tags, last, strict=True)]


def write_gold(path: Path, tokens: list[list[str]], gold: list[list[str]], iobes: bool) -> None:
    """CoNLL: two columns in IOB2; or four in IOBES, with documents, comments and other line ends."""
    lines = ["-DOCSTART- -X- O O", "", "# id = 1"] if iobes else []
    for words, tags in zip(tokens, gold, strict=True):
        row = "{} NN  x {}" if iobes else "{}\t{}"
        written = in_iobes(tags) if iobes else tags
        lines += [row.format(word, tag) for word, tag in zip(words, written, strict=True)]
        lines += ["", ""] if iobes else [""]
    path.write_bytes(("\r\n" if iobes else "\n").join(lines).encode())


@pytest.mark.parametrize("settings", [(), ("data.max_length=12", "data.overlap=4")])
def test_entities_as_seqeval(tagger: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Also of documents that are cut into windows, and of files in another scheme and layout."""
    tokens = sentences(60, 40 if settings else 12)
    tags = predicted_tags(tagger, tokens, tmp_path, *settings)
    gold = half_right(tags)
    write_gold(tmp_path / "gold.conll", tokens, gold, iobes=bool(settings))
    found = evaluate(str(tagger), [f"data.validation={tmp_path / 'gold.conll'}", *settings])
    expected = classification_report(
        gold, tags, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    assert 0.2 < found.metrics["val/f1"] < 0.9
    for ours, theirs in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert found.metrics[f"val/{ours}"] == pytest.approx(expected["micro avg"][theirs], abs=1e-12)
    for kind in ("LOC", "PER"):
        assert found.metrics[f"val/f1/{kind}"] == pytest.approx(expected[kind]["f1-score"], abs=1e-12)
    assert found.metrics["val/accuracy"] == pytest.approx(accuracy_score(gold, tags), abs=1e-12)
    gain = found.metrics["val/f1"] - found.metrics["val/f1_argmax"]
    assert any(f"F1 {gain:+.4f} over" in note for note in found.notes)
    assert "LOC" in found.tables[0]


def test_one_label_as_scikit_learn(single: Path, tmp_path: Path) -> None:
    names = ["neg", "neu", "pos"]
    records = [{"text": " ".join(one), "label": names[len(one) % 3]} for one in sentences(80)]
    source = write_lines(tmp_path / "in.jsonl", records)
    found = evaluate(str(single), [f"data.validation={source}"]).metrics
    predict(str(single), source, tmp_path / "out.jsonl")
    answers = read_lines(tmp_path / "out.jsonl")
    gold, labels = [one["label"] for one in records], [one["label"] for one in answers]
    chances = np.array([list(one["scores"].values()) for one in answers])
    assert len(set(labels)) > 1
    assert found["val/accuracy"] == np.mean([a == b for a, b in zip(gold, labels, strict=True)])
    assert found["val/f1"] == pytest.approx(f1_score(gold, labels, average="macro"), abs=1e-12)
    assert found["val/auroc"] == pytest.approx(roc_auc_score(gold, chances, multi_class="ovr"), abs=1e-9)
    losses = [-np.log(one["scores"][label]) for one, label in zip(answers, gold, strict=True)]
    assert found["val/loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_several_labels_as_scikit_learn(several: Path, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    records = [
        {"text": " ".join(one), "label": [n for n in "abc" if dice.random() < 0.4]} for one in sentences(60)
    ]
    source = write_lines(tmp_path / "in.jsonl", records)
    found = evaluate(str(several), [f"data.validation={source}"]).metrics
    predict(str(several), source, tmp_path / "out.jsonl")
    answers = read_lines(tmp_path / "out.jsonl")
    gold = np.array([[n in one["label"] for n in "abc"] for one in records])
    flags = np.array([[n in one["labels"] for n in "abc"] for one in answers])
    chances = np.array([list(one["scores"].values()) for one in answers])
    assert found["val/f1"] == pytest.approx(
        f1_score(gold, flags, average="macro", zero_division=0), abs=1e-12
    )
    assert found["val/f1_micro"] == pytest.approx(f1_score(gold, flags, average="micro"), abs=1e-12)
    assert found["val/accuracy"] == (gold == flags).all(1).mean()
    assert found["val/auroc"] == pytest.approx(roc_auc_score(gold, chances, average="macro"), abs=1e-9)


def test_values_as_scikit_learn(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", tiny_tokenizer_folder, ("LABEL_0",), "regression")
    records = [{"text": " ".join(one), "label": len(one) / 4} for one in sentences(40)]
    source = write_lines(tmp_path / "in.jsonl", records)
    found = evaluate(str(folder), [f"data.validation={source}"]).metrics
    predict(str(folder), source, tmp_path / "out.jsonl")
    gold, values = [r["label"] for r in records], [r["value"] for r in read_lines(tmp_path / "out.jsonl")]
    measures: dict[str, Callable[[Any, Any], float]] = {
        "mse": mean_squared_error,
        "mae": mean_absolute_error,
        "pearson": lambda a, b: pearsonr(a, b).statistic,
        "spearman": lambda a, b: spearmanr(a, b).statistic,
    }
    for name, measure in measures.items():
        assert found[f"val/{name}"] == pytest.approx(measure(gold, values), abs=1e-5)


def test_a_label_that_the_model_does_not_know(single: Path, tagger: Path, tmp_path: Path) -> None:
    texts = write_lines(tmp_path / "a.jsonl", [{"text": "a", "label": "pos"}, {"text": "b", "label": "good"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: .*'good'"):
        evaluate(str(single), [f"data.validation={texts}"])
    words = tmp_path / "b.conll"
    words.write_text("a B-PER\n\nb B-ORG\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.conll:3: .*'ORG'"):
        evaluate(str(tagger), [f"data.validation={words}"])
    skipped = evaluate(str(single), [f"data.validation={texts}", "data.on_error=skip"])
    assert any("left out 1 record" in note for note in skipped.notes)
