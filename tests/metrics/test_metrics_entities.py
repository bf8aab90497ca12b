"""Entity scores equal seqeval's in strict mode, and word scores scikit-learn's, impossible tags included."""

from __future__ import annotations

import random
import warnings
from itertools import chain
from typing import Any

import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score

from glm_train.metrics.entities import entity_scores, tag_confusion, word_scores

TAGS = ["O", "O", "B-LOC", "I-LOC", "B-PER", "I-PER", "B-组织-x", "I-组织-x"]
Tagged = list[list[str]]


def tagged(seed: int, sentences: int = 40) -> tuple[Tagged, Tagged]:
    """Random tags, and the same with a third of them changed."""
    dice = random.Random(seed)
    gold = [dice.choices(TAGS, k=dice.randint(0, 12)) for _ in range(sentences)]
    predicted = [[tag if dice.random() > 0.3 else dice.choice(TAGS) for tag in tags] for tags in gold]
    return gold, predicted


def seqeval_report(gold: Tagged, predicted: Tagged) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True)


@pytest.mark.parametrize("seed", range(20))
def test_scores_equal_seqevals_on_random_tags(seed: int) -> None:
    gold, predicted = tagged(seed)
    report, scores = seqeval_report(gold, predicted), entity_scores(gold, predicted)
    averages = {"micro avg", "macro avg", "weighted avg"}
    assert {key.partition("/")[2] for key in scores if key.startswith("f1/")} == report.keys() - averages
    for kind in report.keys() - averages:
        for measure, key in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("f1-score", "f1"),
            ("support", "support"),
        ):
            assert scores[f"{key}/{kind}"] == pytest.approx(report[kind][measure], abs=1e-12)
    for key, measure in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
        assert scores[key] == pytest.approx(report["micro avg"][measure], abs=1e-12)
    assert scores["f1_macro"] == pytest.approx(report["macro avg"]["f1-score"], abs=1e-12)
    assert scores["support"] == report["micro avg"]["support"]


def test_impossible_predictions_count_as_documented() -> None:
    gold = [["B-LOC", "I-LOC", "O"], ["B-PER", "O", "O"]]
    predicted = [["I-LOC", "I-LOC", "O"], ["B-PER", "I-LOC", "O"]]
    scores = entity_scores(gold, predicted)
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert "f1/LOC" in scores


@pytest.mark.parametrize(("gold", "predicted"), [([["O"]], [["O"]]), ([], []), ([[]], [[]])])
def test_without_entities_scores_are_zero_and_finite(gold: Tagged, predicted: Tagged) -> None:
    scores = entity_scores(gold, predicted)
    assert scores["f1"] == scores["precision"] == scores["recall"] == 0.0
    assert scores["accuracy"] == float(gold == [["O"]])


def test_classes_of_words_are_scored_as_classes() -> None:
    gold, predicted = [["NN", "VB", "NN"], ["DT", "O"]], [["NN", "NN", "NN"], ["DT", "VB"]]
    scores = entity_scores(gold, predicted)
    assert scores == word_scores(gold, predicted)
    flat = [list(chain(*side)) for side in (gold, predicted)]
    assert scores["accuracy"] == scores["f1_micro"] == pytest.approx(3 / 5)
    assert scores["f1"] == pytest.approx(f1_score(*flat, average="macro", zero_division=0))
    assert scores["recall/NN"] == 1.0


@pytest.mark.parametrize(("gold", "predicted"), [([["O"]], []), ([["O", "O"]], [["O"]])])
def test_sides_of_other_lengths_are_a_misuse(gold: Tagged, predicted: Tagged) -> None:
    for score in (entity_scores, word_scores, tag_confusion):
        with pytest.raises(ValueError, match="gold"):
            score(gold, predicted)


def test_confusion_counts_words_by_type() -> None:
    counts, names = tag_confusion([["B-LOC", "I-LOC", "O", "B-A"]], [["B-LOC", "B-A", "O", "I-A"]])
    assert names == ["O", "A", "LOC"]
    assert counts.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
