"""Validation examples taken from the training data: disjoint by content, the same on every machine."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from word_encoder import WordEncoder, ids_of, write

from glm_train.data.prepare import prepare
from glm_train.data.split import split_validation
from glm_train.errors import ConfigError, DataError


def test_split_keeps_copies_together(tmp_path: Path) -> None:
    records = [{"ids": [i // 3, i // 3]} for i in range(60)]
    store = prepare([write(tmp_path / "a.jsonl", records)], WordEncoder())
    train, validation = split_validation(store, 0.2, seed=0)
    sides = [{tuple(ids) for ids in ids_of(side)} for side in (train, validation)]
    assert not sides[0] & sides[1]
    assert len(train) + len(validation) == 60
    assert len(validation) == 12
    assert validation.source(0)[1] == validation[0][0][0] * 3 + 1, "sources follow the selection"
    again = split_validation(store, 0.2, seed=0)[1]
    other = split_validation(store, 0.2, seed=1)[1]
    assert ids_of(again) == ids_of(validation)
    assert ids_of(other) != ids_of(validation)
    assert pickle.loads(pickle.dumps(validation)).lengths.tolist() == validation.lengths.tolist()
    inner = train.select(np.array([5, 2]))
    assert ids_of(inner) == [ids_of(train)[5], ids_of(train)[2]]


def test_split_gives_each_side_something(tmp_path: Path) -> None:
    store = prepare([write(tmp_path / "a.jsonl", [{"ids": [1, 2]}, {"ids": [3, 4]}])], WordEncoder())
    for fraction in (0.001, 0.999):
        assert [len(side) for side in split_validation(store, fraction, seed=0)] == [1, 1]


def test_split_refusals(tmp_path: Path) -> None:
    store = prepare([write(tmp_path / "a.jsonl", [{"ids": [1, 2]}] * 3)], WordEncoder())
    with pytest.raises(DataError, match="3 examples, all alike, cannot be split"):
        split_validation(store, 0.5, seed=0)
    for fraction in (0.0, 1.0, -1, 7):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            split_validation(store, fraction, seed=0)
