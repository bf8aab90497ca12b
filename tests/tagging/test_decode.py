"""The decoder finds the best path that makes sense: compared with trying them all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.tagging.decode import allowed_transitions, viterbi
from glm_train.tagging.schemes import check_tags, label_names

NAMES = label_names(["A", "B"])


def test_the_documented_table_of_transitions() -> None:
    assert allowed_transitions(["O", "B-X", "I-X"]).astype(int).tolist() == [
        [1, 1, 0],
        [1, 1, 1],
        [1, 1, 1],
        [1, 1, 0],
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([3, 4, 5]))
def test_the_path_is_the_best_of_all_allowed_ones(seed: int, words: int, labels: int) -> None:
    names = NAMES[:labels] if labels != 4 else ["B-A", "O", "I-A", "B-B"]
    scores = np.random.default_rng(seed).normal(size=(words, labels)) * 3
    allowed = allowed_transitions(names)

    def total(path: tuple[int, ...]) -> float:
        steps = zip((-1, *path), path, strict=False)
        return sum(scores[t, p] for t, p in enumerate(path)) if all(allowed[s] for s in steps) else -np.inf

    best = max(itertools.product(range(labels), repeat=words), key=total)
    path = viterbi(scores, names)
    assert path.tolist() == list(best)
    check_tags([names[i] for i in path], "IOB2")


@given(st.integers(0, 2**32 - 1))
def test_long_sentences_and_equal_scores_stay_within_the_rules(seed: int) -> None:
    scores = np.random.default_rng(seed).integers(-2, 3, (60, 5)).astype(np.float32)
    path = viterbi(scores, NAMES)
    check_tags([NAMES[i] for i in path], "IOB2")
    assert scores[np.arange(60), path].sum() <= scores.max(1).sum()


def test_an_inside_without_its_beginning_is_put_right() -> None:
    scores = np.array([[3.0, 1, 0], [1, 2, 2.5], [0, 0, 3]])
    assert scores.argmax(1).tolist() == [0, 2, 2]
    assert viterbi(scores, NAMES[:3]).tolist() == [0, 1, 2], "O I I becomes O B I"


@pytest.mark.parametrize("names", [["NN", "VB", "DT"], ["O", "I-LOC", "I-PER"]])
def test_names_that_make_no_entities_are_decoded_by_their_largest_score(names: list[str]) -> None:
    scores = np.random.default_rng(0).normal(size=(50, 3))
    assert viterbi(scores, names).tolist() == scores.argmax(1).tolist()


def test_an_empty_sentence_has_no_tags_and_bad_scores_are_a_misuse() -> None:
    assert viterbi(np.zeros((0, 5)), NAMES).shape == (0,)
    with pytest.raises(ValueError, match=r"must be \(words, 5\)"):
        viterbi(np.zeros((3, 4)), NAMES)
    with pytest.raises(ValueError, match="finite"):
        viterbi(np.array([[0, np.nan, 0, 0, 0]]), NAMES)
