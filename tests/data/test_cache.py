"""The cache of prepared data: keyed by all that decides it, and whole or absent under kills, damage and company."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from word_encoder import WordEncoder, ids_of, refusal, write

from glm_train.data import prepare as prepare_module
from glm_train.data.encode import Encoded
from glm_train.data.prepare import prepare
from glm_train.data.report import is_complete


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
        "from word_encoder import WordEncoder, prepare, DataError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: prepare([sys.argv[1]], WordEncoder(), cache_dir=sys.argv[2])\n"
        "except DataError as error: print(error)\n"
    )
    arguments = [str(path), str(tmp_path / "cache"), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    )
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
