"""Preparation: the same store whatever the number of processes, and the first fault by file and line."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from word_encoder import WordEncoder, ids_of, refusal, write

from glm_train.data import prepare as prepare_module
from glm_train.data.encode import Encoded
from glm_train.data.prepare import prepare
from glm_train.errors import DataError


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "PARALLEL_BYTES", 0)


def test_store_holds_the_examples(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [{"ids": [1, 2, 3], "train": 2}, "", {"ids": [4, 5]}])
    second = write(tmp_path / "b.jsonl", [{"ids": [6, 7, 8, 9], "train": 4, "lost": 2, "cut": True}])
    store = prepare([first, second], WordEncoder(), cache_dir=tmp_path / "cache")
    assert ids_of(store) == [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert store[0][1].tolist() == [-100, 2, 3]
    assert store.lengths.tolist() == [3, 2, 4]
    assert store.trained.tolist() == [2, 1, 3], "the first token of a document is never a target"
    assert [store.source(i) for i in range(3)] == [(str(first), 1), (str(first), 3), (str(second), 1)]
    report = store.report
    assert (report.records, report.examples, report.tokens, report.trained_tokens) == (3, 3, 9, 6)
    assert (report.longest, report.shortened, report.dropped_messages, report.cut) == (4, 1, 2, 1)
    assert not report.cache_hit
    assert report.files == (str(first), str(second))


def test_the_fingerprint_is_of_the_examples_alone(tmp_path: Path) -> None:
    records = [{"ids": [1, 2, 3]}, {"ids": [4, 5]}, {"ids": [6, 7]}]
    path = write(tmp_path / "a.jsonl", records)
    store = prepare([path], WordEncoder())
    parts = write(tmp_path / "b.jsonl", records[:1]), write(tmp_path / "c.jsonl", ["", *records[1:]])
    same = [
        prepare([path], WordEncoder()),
        prepare(parts, WordEncoder()),
        prepare([path], WordEncoder(), streaming=True),
        pickle.loads(pickle.dumps(store)),
    ]
    assert {other.fingerprint for other in same} == {store.fingerprint}
    edited = (
        [{"ids": [1, 2, 4]}, *records[1:]],
        [{"ids": [1, 2, 3], "train": 2}, *records[1:]],
        records[::-1],
    )
    others = [prepare([write(tmp_path / f"{n}.jsonl", rows)], WordEncoder()) for n, rows in enumerate(edited)]
    others += [store.select(np.array(rows)) for rows in ([0, 1], [1, 0], [0, 1, 2, 2])]
    assert len({store.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1
    assert (
        store.select(np.array([2, 1])).select(np.array([1])).fingerprint
        == store.select(np.array([1])).fingerprint
    )


def test_examples_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    store = prepare([write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])], WordEncoder())
    ids, labels = store[0]
    assert ids.dtype == labels.dtype == np.int32
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    with pytest.raises(IndexError, match="example 1 of 1"):
        store[1]


def test_left_out_records_are_counted_with_their_places(tmp_path: Path) -> None:
    records = [{"ids": [1, 2]}, {"ids": [0] * 2000}, {"ids": [3, 4], "train": 0}, {"ids": [0] * 1001}]
    path = write(tmp_path / "a.jsonl", records)
    report = prepare([path], WordEncoder()).report
    assert report.dropped == {"longer than data.max_length": 2, "no token of it is trained": 1}
    assert report.dropped_at["longer than data.max_length"] == (f"{path}:2", f"{path}:4")
    assert f"left out 1 records: no token of it is trained (first: {path}:3)" in str(report)


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [0] * 2000}, {"ids": [1], "train": 0}])
    text = refusal(path)
    assert "no example is left of 2 records: 1 longer than data.max_length" in text
    assert f"(first: {path}:1)" in text


def test_no_files() -> None:
    assert refusal() == "no data file is named. Set data.train."


@pytest.mark.parametrize("workers", [0, 2])
def test_first_fault_in_file_order(tmp_path: Path, parallel: None, workers: int) -> None:
    """The reader meets line 301 long before a worker meets line 100, and the second file is worse still."""
    records: list[Any] = [{"ids": [i, i]} for i in range(300)]
    records[99] = {"id": "typo"}
    records[199] = {"id": "typo"}
    path = write(tmp_path / "a.jsonl", [*records, "{broken"])
    worse = write(tmp_path / "b.jsonl", ["{broken"])
    assert refusal(path, worse, workers=workers) == f"{path}:100: no ids. Add them."
    del records[199], records[99]
    path = write(tmp_path / "c.jsonl", [*records, "{broken"])
    assert refusal(path, worse, workers=workers).startswith(f"{path}:299: the line is not JSON")


def test_workers_change_nothing(tmp_path: Path, parallel: None) -> None:
    rng = np.random.default_rng(0)
    records = [{"ids": rng.integers(0, 9, rng.integers(2, 30)).tolist()} for _ in range(700)]
    path = write(tmp_path / "a.jsonl", records)
    stores = [prepare([path], WordEncoder(), cache_dir=tmp_path / str(w), workers=w) for w in (0, 1, 3)]
    contents = {(Path(s.report.cache_folder) / "examples.arrow").read_bytes() for s in stores}
    assert len(contents) == 1
    assert len({Path(s.report.cache_folder).name for s in stores}) == 1
    assert ids_of(stores[2]) == [record["ids"] for record in records]


def test_killed_worker_is_said(tmp_path: Path, parallel: None) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}, {"ids": [1], "kill": True}])
    assert "a process that prepares the data died" in refusal(path, workers=2)


def test_many_batches(tmp_path: Path) -> None:
    records = [{"ids": [i, i + 1, i + 2][: 2 + i % 2]} for i in range(2500)]
    store = prepare([write(tmp_path / "a.jsonl", records)], WordEncoder())
    assert ids_of(store) == [record["ids"] for record in records]
    assert store.source(2400)[1] == 2401
    copy = pickle.loads(pickle.dumps(store))
    assert ids_of(copy) == ids_of(store)
    assert len(pickle.dumps(store)) < 5000, "workers map the file themselves"


def test_file_that_changes_while_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}] * 3)

    class Meddler(WordEncoder):
        def __call__(self, value: dict[str, Any]) -> Encoded:
            with path.open("a") as file:
                file.write('{"ids": [9, 9]}\n')
            return super().__call__({"ids": [1, 2]})

    with pytest.raises(DataError, match="the file changed while it was read"):
        prepare([path], Meddler())


def test_prepare_imports_no_torch() -> None:
    code = "import sys, glm_train.data.prepare, glm_train.data.split; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
