"""Scores of documents that have a class, several labels, or values. Through scikit-learn and scipy.

n documents, L labels, k values. Scores are logits, as the model's head gives them. A measure that the data do not
define (AUROC with one class alone, a correlation with a constant) is left out, so that every number is finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def class_scores(targets: np.ndarray, scores: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """One class a document: `targets` (n,) class ids, `scores` (n, L) logits; the largest is the prediction.

    Returns:
        `accuracy`; `f1` (macro, over the classes that occur among targets or predictions) and `f1_micro`; `auroc`: with
        two labels that of the second, with more the mean over the classes that occur of each against the rest, by
        softmax probability, and absent where only one class occurs; `precision/NAME recall/NAME f1/NAME support/NAME`
        of each class that occurs.
    """
    from sklearn.metrics import precision_recall_fscore_support

    targets, scores = np.asarray(targets), _matrix(scores, len(targets), len(names))
    if targets.min() < 0 or targets.max() >= len(names):
        raise ValueError(f"class ids must be 0 to {len(names) - 1}, found {targets.min()} to {targets.max()}")
    predicted = scores.argmax(1)
    occurring = np.union1d(targets, predicted)
    parts = precision_recall_fscore_support(targets, predicted, labels=occurring, zero_division=0)
    accuracy = float((targets == predicted).mean())
    result = {"accuracy": accuracy, "f1": float(parts[2].mean()), "f1_micro": accuracy}
    if len(names) == 2:
        auroc = _auroc([targets == 1], [scores[:, 1] - scores[:, 0]])
    else:
        chances = _softmax(scores)
        present = np.unique(targets)
        auroc = _auroc([targets == label for label in present], [chances[:, label] for label in present])
    return {**result, **auroc, **_each(parts, [names[label] for label in occurring])}


def multi_label_scores(
    flags: np.ndarray, scores: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Several labels a document: `flags` (n, L) of 0 and 1, `scores` (n, L) logits; a probability of 0.5 is a yes.

    Returns:
        `accuracy` (the share of documents with every label right); `f1` (macro, over all labels; 0 for one that neither
        occurs nor is predicted) and `f1_micro`; `auroc`: the mean over the labels that some documents have and some
        have not, absent where there are none; with `names`, `precision/NAME recall/NAME f1/NAME support/NAME` of each.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    flags = np.asarray(flags).astype(np.int64)
    scores = _matrix(scores, *flags.shape)
    predicted = (scores >= 0).astype(np.int64)
    # scikit-learn takes a single column for two classes, of which only the second is a label
    pair, labels = ((flags, predicted), None) if flags.shape[1] > 1 else ((flags[:, 0], predicted[:, 0]), [1])
    parts = precision_recall_fscore_support(*pair, labels=labels, zero_division=0)
    result = {
        "accuracy": float((flags == predicted).all(1).mean()),
        "f1": float(np.mean(parts[2])),
        "f1_micro": float(f1_score(*pair, labels=labels, average="micro", zero_division=0)),
    }
    result |= _auroc(list(flags.T == 1), list(scores.T))
    return result | (_each(parts, names) if names is not None else {})


def regression_scores(values: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Values a document: both (n, k) or (n,).

    Returns:
        `mse`, `mae` over all values; `pearson` and `spearman`, each the mean over the columns for which it is defined
        (two documents or more, neither side constant), absent where there is none.
    """
    from scipy.stats import pearsonr, spearmanr

    values = np.asarray(values, np.float64)
    predictions = np.asarray(predictions, np.float64).reshape(values.shape)
    _require_finite(predictions)
    error = values - predictions
    result = {"mse": float(np.mean(error**2)), "mae": float(np.mean(np.abs(error)))}
    columns = zip(values.reshape(len(values), -1).T, predictions.reshape(len(values), -1).T, strict=True)
    defined = [(one, other) for one, other in columns if len(one) > 1 and np.ptp(one) and np.ptp(other)]
    for name, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
        if defined:
            result[name] = float(np.mean([measure(one, other).statistic for one, other in defined]))
    return result


def confusion(targets: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """How often each class was taken for which: (labels, labels) int64, `[target, prediction]`."""
    places = np.asarray(targets, np.int64) * labels + np.asarray(predicted, np.int64)
    return np.bincount(places, minlength=labels * labels).reshape(labels, labels)


def _auroc(flags: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> dict[str, float]:
    """The mean area under the ROC curve of the columns that hold both kinds; empty where there are none."""
    from sklearn.metrics import roc_auc_score

    areas = [
        roc_auc_score(flag, score)
        for flag, score in zip(flags, scores, strict=True)
        if flag.any() and not flag.all()
    ]
    return {"auroc": float(np.mean(areas))} if areas else {}


def _each(parts: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, float]:
    """scikit-learn's four arrays, one number a label each, as flat names."""
    measures = ("precision", "recall", "f1", "support")
    return {
        f"{measure}/{name}": float(part[index])
        for index, name in enumerate(names)
        for measure, part in zip(measures, parts, strict=True)
    }


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _matrix(scores: np.ndarray, documents: int, labels: int) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != (documents, labels) or not documents:
        raise ValueError(
            f"scores must be ({documents}, {labels}) with at least one document, found {scores.shape}"
        )
    _require_finite(scores)
    return scores


def _require_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite numbers; the model's outputs overflow or are not a number")
