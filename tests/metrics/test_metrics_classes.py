"""Scores of documents equal scikit-learn's and scipy's, and stay finite where the data do not define them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, mean_squared_error, roc_auc_score

from glm_train.metrics.classes import class_scores, confusion, multi_label_scores, regression_scores

DICE = np.random.default_rng(5)


@pytest.mark.parametrize("labels", [2, 5])
def test_class_scores_equal_scikit_learns(labels: int) -> None:
    targets, logits = DICE.integers(0, labels, 200), DICE.normal(size=(200, labels)) * 2
    scores = class_scores(targets, logits, [f"c{i}" for i in range(labels)])
    predicted, chances = logits.argmax(1), softmax(logits, 1)
    assert scores["accuracy"] == scores["f1_micro"] == pytest.approx(accuracy_score(targets, predicted))
    assert scores["f1"] == pytest.approx(f1_score(targets, predicted, average="macro"))
    expected = roc_auc_score(targets, chances[:, 1] if labels == 2 else chances, multi_class="ovr")
    assert scores["auroc"] == pytest.approx(expected)
    assert scores["f1/c1"] == pytest.approx(f1_score(targets, predicted, average=None)[1])
    assert scores["support/c0"] == (targets == 0).sum()
    assert (confusion(targets, predicted, labels) == confusion_matrix(targets, predicted)).all()


def test_with_one_class_alone_there_is_no_auroc_and_nothing_is_nan() -> None:
    scores = class_scores(np.zeros(4, int), DICE.normal(size=(4, 3)) - [[0, 9, 0]], ["a", "b", "c"])
    assert "auroc" not in scores
    assert "f1/b" not in scores, "it neither occurs nor is predicted"
    assert all(map(math.isfinite, scores.values()))


def test_a_class_that_does_not_occur_is_no_part_of_the_auroc() -> None:
    targets, logits = np.array([0, 1, 0, 1]), DICE.normal(size=(4, 3))
    chances = softmax(logits, 1)
    expected = [roc_auc_score(targets == label, chances[:, label]) for label in (0, 1)]
    assert class_scores(targets, logits, ["a", "b", "c"])["auroc"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("labels", [1, 4])
def test_multi_label_scores_equal_scikit_learns(labels: int) -> None:
    flags, logits = DICE.integers(0, 2, (100, labels)), DICE.normal(size=(100, labels))
    names = [f"标签{i}" for i in range(labels)]
    scores = multi_label_scores(flags, logits, names)
    predicted = (expit(logits) >= 0.5).astype(int)
    each = [f1_score(flags[:, i], predicted[:, i]) for i in range(labels)]
    assert scores["f1"] == pytest.approx(np.mean(each))
    assert scores["f1_micro"] == pytest.approx(f1_score(flags.ravel(), predicted.ravel()))
    assert scores["accuracy"] == pytest.approx((flags == predicted).all(1).mean())
    assert scores["auroc"] == pytest.approx(
        np.mean([roc_auc_score(flags[:, i], logits[:, i]) for i in range(labels)])
    )
    assert scores["f1/标签0"] == pytest.approx(each[0])
    assert not any("/" in key for key in multi_label_scores(flags, logits))


def test_labels_that_nobody_has_leave_multi_label_scores_finite() -> None:
    scores = multi_label_scores(np.zeros((3, 2)), np.full((3, 2), -1.0))
    assert scores == {"accuracy": 1.0, "f1": 0.0, "f1_micro": 0.0}


def test_regression_scores_equal_scipys() -> None:
    values = DICE.normal(size=(50, 2))
    predictions = values + DICE.normal(size=(50, 2))
    scores = regression_scores(values, predictions)
    assert scores["mse"] == pytest.approx(mean_squared_error(values, predictions))
    assert scores["mae"] == pytest.approx(np.abs(values - predictions).mean())
    for name, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = np.mean([measure(values[:, i], predictions[:, i]).statistic for i in (0, 1)])
        assert scores[name] == pytest.approx(expected)
    assert regression_scores(values[:, 0], predictions[:, :1])["mse"] > 0


@pytest.mark.parametrize(
    ("values", "predictions"), [([1.0], [2.0]), ([1.0, 1, 1], [1.0, 2, 3]), ([1.0, 2, 3], [2.0, 2, 2])]
)
def test_correlations_that_are_not_defined_are_absent(values: list[float], predictions: list[float]) -> None:
    assert regression_scores(np.array(values), np.array(predictions)).keys() == {"mse", "mae"}


def test_scores_that_cannot_be_are_a_misuse() -> None:
    for scores in (np.zeros((2, 3)), np.zeros((3, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="scores must be"):
            class_scores(np.array([0, 1]), scores, ["a", "b"])
    with pytest.raises(ValueError, match="class ids"):
        class_scores(np.array([0, 2]), np.zeros((2, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="at least one"):
        class_scores(np.zeros(0, int), np.zeros((0, 2)), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        regression_scores(np.array([1.0]), np.array([np.inf]))
