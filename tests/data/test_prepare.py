"""Preparation: the same store whatever the number of processes, the first fault by file and line, and a cache
that survives kills, damage and company."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train.data import prepare as prepare_module
from glm_train.data.encode import Encoded
from glm_train.data.prepare import prepare
from glm_train.data.split import split_validation
from glm_train.data.store import ExampleStore, is_complete
from glm_train.errors import ConfigError, DataError
from glm_train.text.chat import ExampleTooLong


@dataclass(frozen=True)
class WordEncoder:
    """`{"ids": [...], "train": k}`: the last k ids are trained. A stand-in for a tokenizer, and picklable."""

    limit: int = 1000
    slow: float = 0.0

    def __call__(self, value: dict[str, Any]) -> Encoded:
        time.sleep(self.slow)
        if "ids" not in value:
            raise DataError("no ids. Add them.")
        if value.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        ids = np.array(value["ids"], np.int32)
        if len(ids) > self.limit:
            raise ExampleTooLong("too long")
        trained = value.get("train", 1)
        if not trained:
            return Encoded(dropped="no token of it is trained")
        labels = np.where(np.arange(len(ids)) >= len(ids) - trained, ids, -100).astype(np.int32)
        return Encoded(ids, labels, dropped_messages=value.get("lost", 0), cut=value.get("cut", False))

    def settings(self) -> dict[str, Any]:
        return {"limit": self.limit}


def write(path: Path, records: list[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def ids_of(store: ExampleStore) -> list[list[int]]:
    return [store[i][0].tolist() for i in range(len(store))]


def refusal(*files: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare(files, WordEncoder(), **options)
    return str(caught.value)


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


def test_second_run_comes_from_the_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}, {"ids": [1, 2], "train": 0}])
    first = prepare([path], WordEncoder(), cache_dir=tmp_path / "cache")
    moved = path.rename(tmp_path / "moved.jsonl")
    again = prepare([moved], WordEncoder(), cache_dir=tmp_path / "cache")
    assert (first.report.cache_hit, again.report.cache_hit) == (False, True)
    assert again.source(0) == (str(moved), 1)
    assert again.report.dropped_at == {"no token of it is trained": (f"{moved}:2",)}
    assert "from the cache" in str(again.report)


def test_cache_key_follows_content_and_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    other = write(tmp_path / "b.jsonl", [{"ids": [1, 3]}])
    stores = [
        prepare(files, WordEncoder(limit), cache_dir=tmp_path / "cache")
        for files, limit in (([path], 9), ([other], 9), ([path], 8), ([path, other], 9), ([other, path], 9))
    ]
    assert not any(store.report.cache_hit for store in stores)
    write(path, [{"ids": [1, 4]}])
    assert ids_of(prepare([path], WordEncoder(9), cache_dir=tmp_path / "cache")) == [[1, 4]]


def test_cache_does_not_outlive_a_change_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    prepare([path], WordEncoder())
    assert prepare([path], WordEncoder()).report.cache_hit
    monkeypatch.setattr(prepare_module, "_code_digest", lambda: "other")
    assert not prepare([path], WordEncoder()).report.cache_hit


@pytest.mark.parametrize("damage", ["truncate", "no meta", "bad meta"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    folder = Path(prepare([path], WordEncoder()).report.cache_folder)
    if damage == "truncate":
        os.truncate(folder / "examples.arrow", 100)
    elif damage == "no meta":
        (folder / "meta.json").unlink()
    else:
        (folder / "meta.json").write_text("{")
    assert not is_complete(folder)
    again = prepare([path], WordEncoder())
    assert not again.report.cache_hit
    assert ids_of(again) == [[1, 2]]


def test_fault_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    refusal(write(tmp_path / "a.jsonl", [{"ids": [1, 2]}, {}]), cache_dir=cache)
    assert [p.name for p in cache.iterdir() if p.suffix != ".lock"] == []


def test_file_that_changes_while_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}] * 3)

    class Meddler(WordEncoder):
        def __call__(self, value: dict[str, Any]) -> Encoded:
            with path.open("a") as file:
                file.write('{"ids": [9, 9]}\n')
            return super().__call__({"ids": [1, 2]})

    with pytest.raises(DataError, match="the file changed while it was read"):
        prepare([path], Meddler())


def test_unwritable_cache_names_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refusal(write(tmp_path / "a.jsonl", [{"ids": [1, 2]}]), cache_dir=tmp_path / "file" / "cache")
    assert "cannot write the prepared data" in text
    assert "data.cache_dir or GLM_TRAIN_CACHE" in text


def test_full_disk_names_the_cure(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: nothing is published, and the run says what to do."""
    path = write(tmp_path / "a.jsonl", [{"ids": list(range(500))}] * 500)
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[3]); signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from test_prepare import WordEncoder, prepare, DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: prepare([sys.argv[1]], WordEncoder(), cache_dir=sys.argv[2])\n"
        "except DataError as error: print(error)\n"
    )
    arguments = [str(path), str(tmp_path / "cache"), str(Path(__file__).parent)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    assert "cannot write the prepared data" in done.stdout
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == []


def _prepare_slowly(path: Path, cache: Path, slow: float) -> None:
    prepare([path], WordEncoder(slow=slow), cache_dir=cache)


def test_two_processes_at_once_and_one_killed(tmp_path: Path) -> None:
    """The second waits for the first; when the first is killed it sweeps up and builds."""
    path = write(tmp_path / "a.jsonl", [{"ids": [i, i]} for i in range(40)])
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    first = context.Process(target=_prepare_slowly, args=(path, cache, 60.0))
    first.start()
    deadline = time.monotonic() + 30
    while not list(cache.glob("*.tmp")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = context.Process(target=_prepare_slowly, args=(path, cache, 0.0))
    second.start()
    second.join(0.3)
    assert second.is_alive(), "it waits for the lock"
    os.kill(first.pid or 0, signal.SIGKILL)
    second.join(30)
    assert second.exitcode == 0
    assert list(cache.glob("*.tmp")) == []
    assert prepare([path], WordEncoder(), cache_dir=cache).report.cache_hit


def test_leftovers_of_other_keys_are_swept_unless_in_use(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "0123.1-ab.tmp").mkdir()
    prepare([write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])], WordEncoder(), cache_dir=cache)
    assert list(cache.glob("*.tmp")) == []


def test_without_locks_either_process_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without locks another process may publish while this one builds."""
    import fcntl

    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(95, "not supported")))

    class Overtaken(WordEncoder):
        def __call__(self, value: dict[str, Any]) -> Encoded:
            prepare([path], WordEncoder(), cache_dir=tmp_path / "cache")
            return super().__call__(value)

    store = prepare([path], Overtaken(), cache_dir=tmp_path / "cache")
    assert store.report.cache_hit, "the winner's folder is used"
    assert ids_of(store) == [[1, 2]]
    assert list((tmp_path / "cache").glob("*.tmp")) == []


def test_prepare_imports_no_torch() -> None:
    code = "import sys, glm_train.data.prepare, glm_train.data.split; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


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
