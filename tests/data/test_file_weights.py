"""A weight says how often the examples of a file stand in an epoch, to the example."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from word_encoder import WordEncoder, ids_of, write

from glm_train.data.plan import plan_epoch
from glm_train.data.prepare import prepare
from glm_train.data.split import split_validation
from glm_train.data.store import ExampleStore
from glm_train.data.weights import weigh


def store_of(folder: Path, *sizes: int) -> tuple[ExampleStore, list[Path]]:
    """Files of these sizes; an example's first id is its file, its second its place there."""
    files = [
        write(folder / f"{file}.jsonl", [{"ids": [file, i, 0]} for i in range(size)])
        for file, size in enumerate(sizes)
    ]
    return prepare(files, WordEncoder()), files


def places(store: ExampleStore, file: int) -> list[int]:
    return [ids[1] for ids in ids_of(store) if ids[0] == file]


def test_no_weight_changes_nothing(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 3, 2)
    assert weigh(store, dict.fromkeys(files, 1.0), seed=0) is store
    assert weigh(store, {}, seed=0) is store


def test_whole_weights_repeat_each_example(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 3, 2, 2)
    weighted = weigh(store, {files[1]: 3.0, files[2]: 2.0}, seed=0)
    assert [ids[:2] for ids in ids_of(weighted)] == [[0, 0], [0, 1], [0, 2]] + [[1, 0]] * 3 + [[1, 1]] * 3 + [
        [2, 0]
    ] * 2 + [[2, 1]] * 2
    assert weighted.source(4) == (str(files[1]), 1)
    assert ids_of(pickle.loads(pickle.dumps(weighted))) == ids_of(weighted)


@pytest.mark.parametrize(
    ("weight", "examples", "expected"),
    [
        (0.5, 10, 5),
        (0.5, 5, 3),
        (0.25, 10, 3),
        (1.5, 10, 15),
        (2.1, 10, 21),
        (0.001, 10, 1),
        (1.001, 10, 10),
        (0.5, 1, 1),
    ],
)
def test_shares_are_exact(tmp_path: Path, weight: float, examples: int, expected: int) -> None:
    store, files = store_of(tmp_path, examples, 1)
    found = places(weigh(store, {files[0]: weight}, seed=0), 0)
    assert len(found) == expected
    counts = np.bincount(found, minlength=examples)
    assert set(counts.tolist()) <= {int(weight), int(weight) + 1}
    assert found == sorted(found), "in the order of the file"


def test_shares_are_drawn_from_the_seed(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 100)
    chosen = [places(weigh(store, {files[0]: 0.5}, seed=seed), 0) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0] != chosen[2]
    assert 15 < len(set(chosen[0]) & set(range(50))) < 35, "from the whole file"
    assert chosen[0][:4] == [0, 1, 8, 9], "the same on every machine and in every version"


def test_the_plan_sees_them(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 4, 3)
    weighted = weigh(store, {files[1]: 2.0}, seed=0)
    plan = plan_epoch(
        weighted.lengths, weighted.trained, seed=0, epoch=0, microbatches_per_step=1, documents=1
    )
    seen = sorted(int(i) for step in plan.steps for microbatch in step.microbatches for i in microbatch)
    assert seen == list(range(10))


def test_validation_is_split_off_before(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 40, 40)
    train, validation = split_validation(store, 0.25, seed=0)
    weighted = weigh(train, {files[0]: 2.0, files[1]: 0.5}, seed=0)
    assert len(validation) == 20
    assert not {tuple(ids) for ids in ids_of(validation)} & {tuple(ids) for ids in ids_of(weighted)}
    assert len(places(weighted, 0)) == 2 * len(places(train, 0))
    assert len(places(weighted, 1)) == int(len(places(train, 1)) / 2 + 0.5)


def test_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.jsonl", [{"ids": [0, 1]}]),
        write(tmp_path / "b.jsonl", [{"ids": [0] * 2000}]),
    ]
    store = prepare(files, WordEncoder())
    assert ids_of(weigh(store, {files[0]: 2.0, files[1]: 3.0}, seed=0)) == [[0, 1]] * 2


def test_the_report_counts_an_epoch(tmp_path: Path) -> None:
    store, files = store_of(tmp_path, 4, 3)
    report = weigh(store, {files[1]: 2.0}, seed=0).report
    assert (report.records, report.examples, report.tokens, report.trained_tokens) == (7, 10, 30, 10)
    assert report.losses() == [f"{files[1]}: weight 2, 3 examples stand 6 times in an epoch"]
    assert store.report.examples == 7
