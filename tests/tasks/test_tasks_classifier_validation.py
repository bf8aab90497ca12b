"""Validation counts every target once, puts windows together, and gives seqeval's and scikit-learn's numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score, roc_auc_score
from torch.nn import functional as F

from glm_train.data.plan import plan_in_order
from glm_train.data.store import CONTINUES, IGNORE
from glm_train.errors import CheckFailed, DataError
from glm_train.tagging.decode import viterbi
from glm_train.tasks.token_classification import records_of
from support import classifier_runs
from support.classifier_runs import (
    LABELS,
    TOKENS,
    Example,
    examples_of,
    models,
    packed,
    rank_validates,
    store_of,
    task_of,
    validate,
    validated,
)

PARTS = [0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 1, 0, 0]


def logits_of(kind: str, examples: list[Example]) -> list[np.ndarray]:
    """The scores of each document's targets, each document run by itself."""
    task = task_of(kind, models(kind)[0])
    with torch.no_grad():
        return [task.logits(packed(kind, [one])).numpy() for one in examples]


def seqeval_scores(gold: list[list[str]], predicted: list[list[str]]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True)


def test_entity_scores_are_seqevals_of_the_decoded_records(tmp_path: Path) -> None:
    examples = examples_of("token", len(PARTS))
    store = store_of(tmp_path / "token", "token", examples, PARTS)
    found, tables = validated(tmp_path / "token", "token")
    names = np.array(LABELS["token"])
    records: list[list[Any]] = []
    losses = 0.0
    for part, (_, labels), logits in zip(PARTS, examples, logits_of("token", examples), strict=True):
        row = labels[labels != IGNORE]
        losses += F.cross_entropy(
            torch.from_numpy(logits), torch.from_numpy(row).long() % CONTINUES, reduction="sum"
        ).item()
        words = row < CONTINUES
        if part == 0:
            records.append([[], []])
        records[-1][0].append(row[words])
        records[-1][1].append(logits[words])
    gold = [names[np.concatenate(rows)].tolist() for rows, _ in records]
    scores = [np.concatenate(logits) for _, logits in records]
    best = [names[viterbi(one, LABELS["token"])].tolist() for one in scores]
    likeliest = [names[one.argmax(1)].tolist() for one in scores]
    expected = seqeval_scores(gold, best)
    assert best != likeliest, "the decoder has something to do"
    for key, measure in (("f1", "f1-score"), ("precision", "precision"), ("recall", "recall")):
        assert found[f"val/{key}"] == pytest.approx(expected["micro avg"][measure], abs=1e-9)
    for kind in classifier_runs.TYPES:
        assert found[f"val/f1/{kind}"] == pytest.approx(expected[kind]["f1-score"], abs=1e-9)
    assert found["val/f1_argmax"] == pytest.approx(seqeval_scores(gold, likeliest)["micro avg"]["f1-score"])
    same = [a == b for one, other in zip(gold, best, strict=True) for a, b in zip(one, other, strict=True)]
    assert found["val/accuracy"] == pytest.approx(np.mean(same))
    assert found["val/loss"] == pytest.approx(losses / int(store.trained.sum()), rel=1e-5)
    assert "组织" in tables[0]
    assert "confusion" in tables[1]


@pytest.mark.parametrize("kind", ["single", "several", "values"])
def test_document_scores_are_scikit_learns(tmp_path: Path, kind: str) -> None:
    examples = examples_of(kind, 60)
    store_of(tmp_path / kind, kind, examples)
    found, tables = validated(tmp_path / kind, kind)
    scores = np.concatenate(logits_of(kind, examples))
    targets = np.stack([labels for _, labels in examples])
    if kind == "single":
        gold, chances = targets[:, 0], softmax(scores, 1)
        loss = -np.log(chances[np.arange(len(gold)), gold]).mean()
        expected = {
            "accuracy": (gold == scores.argmax(1)).mean(),
            "f1": f1_score(gold, scores.argmax(1), average="macro"),
            "f1_micro": f1_score(gold, scores.argmax(1), average="micro"),
            "auroc": roc_auc_score(gold, chances, multi_class="ovr"),
        }
    elif kind == "several":
        yes = expit(scores) >= 0.5
        loss = -np.where(targets, np.log(expit(scores)), np.log(expit(-scores))).mean()
        expected = {
            "accuracy": (targets == yes).all(1).mean(),
            "f1": f1_score(targets, yes, average="macro"),
            "f1_micro": f1_score(targets, yes, average="micro"),
            "auroc": roc_auc_score(targets, scores, average="macro"),
        }
    else:
        values = targets.view(np.float32)
        loss = np.mean((values - scores) ** 2)
        expected = {"mse": loss, "mae": np.abs(values - scores).mean()}
        for name, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
            expected[name] = np.mean([measure(values[:, i], scores[:, i]).statistic for i in range(2)])
    assert found == {"val/loss": pytest.approx(loss, rel=1e-4)} | {
        f"val/{name}": pytest.approx(value, rel=1e-4) for name, value in expected.items()
    }
    assert len(tables) == {"single": 2, "several": 1, "values": 0}[kind]


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """In microbatches that do not go round, so that one rank runs a filler; windows of a record are on both."""
    for kind in ("token", "single"):
        store = store_of(tmp_path / kind, kind, examples_of(kind, len(PARTS)), PARTS)
        (step,) = plan_in_order(store.lengths, store.trained, token_budget=TOKENS).steps
        assert len(step.microbatches) % 2 == 1
        assert any(PARTS[microbatch[0]] > 0 for microbatch in step.microbatches)
    torch.multiprocessing.spawn(rank_validates, (2, tmp_path, ("token", "single")), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    for kind in ("token", "single"):
        measures, tables = validated(tmp_path / kind, kind)
        assert ranks[0][kind][1] == tables
        assert ranks[0][kind][0] == pytest.approx(measures, rel=1e-9)


def test_all_ranks_have_the_numbers_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which model is best is decided on each rank, and a last bit that differs must not divide them."""
    store = store_of(tmp_path / "single", "single", examples_of("single", 9))
    found = validate(task_of("single", models("single")[0]), "single", store)
    of_first = {name: float(np.nextafter(value, 2)) for name, value in found.items()}
    monkeypatch.setattr("glm_train.dist.from_rank_0", lambda own: of_first if own == found else None)
    assert validate(task_of("single", models("single")[0]), "single", store) == of_first


def test_windows_are_put_together_by_their_parts() -> None:
    parts = [0, 0, 1, 2, 0, 1, 2, 0]
    documents = np.array([0, 0, 1, 2, 3, 3, 4, 6, 7])
    records = records_of(documents, parts.__getitem__)
    assert records.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 3], "a window without labels is still a window"
    assert records_of(documents, None) is documents
    assert records_of(np.arange(4), [1, 2, 2, 0].__getitem__).tolist() == [0, 0, 1, 2], "a lost beginning"


def test_classes_of_words_are_scored_as_such(tmp_path: Path) -> None:
    names = ["NN", "VB", "DT", "JJ", "O"]
    store = store_of(tmp_path / "words", "token", examples_of("token", 9))
    found = validate(task_of("token", models("token", id2label=dict(enumerate(names)))[0]), "token", store)
    assert found["val/f1_micro"] == found["val/accuracy"]
    assert "val/f1_argmax" not in found
    assert 0 < found["val/f1/VB"] < 1


def test_validation_without_labels_and_with_broken_scores_is_refused(tmp_path: Path) -> None:
    ((ids, labels),) = examples_of("token", 1)
    empty = store_of(tmp_path / "empty", "token", [(ids, np.full_like(labels, IGNORE))])
    model, _ = models("token")
    with pytest.raises(DataError, match="validation data have no label"):
        validate(task_of("token", model), "token", empty)
    with torch.no_grad():
        model.score.weight[0, 0] = torch.inf
    full = store_of(tmp_path / "full", "token", examples_of("token", 3))
    with pytest.raises(CheckFailed, match="scores of 3 examples are infinite"):
        validate(task_of("token", model), "token", full)
