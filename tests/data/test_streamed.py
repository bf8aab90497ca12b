"""A streamed store is the ordinary one in every answer, without its tokens; and it never gives other tokens."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from word_encoder import WordEncoder, ids_of, write

from glm_train.build_data import build_data, build_tokenizer
from glm_train.data import prepare as prepare_module
from glm_train.data import streamed
from glm_train.data.mask_checks import find_duplicates
from glm_train.data.prepare import prepare
from glm_train.data.sampler import PackedDataset, PackedLoader, RankStep
from glm_train.data.sources import find_sources
from glm_train.data.split import split_salt, split_validation
from glm_train.data.store import ExampleStore
from glm_train.data.streamed import StreamedStore
from glm_train.data.weights import weigh
from glm_train.errors import DataError
from support.runs import configure


def records(count: int = 60) -> list[Any]:
    """Copies, shortened, cut, untrained and overlong ones, blank lines and letters of several bytes."""
    found: list[Any] = []
    for i in range(count):
        made = {"ids": [i // 3, i // 3, *range(i % 5)], "train": 1 + i % 2, "note": "北京" * (i % 4)}
        found.append({**made, "train": 0} if i % 17 == 5 else {**made, "cut": i % 7 == 0, "lost": i % 3})
        found += [""] * (i % 11 == 3)
    return [*found, {"ids": [1] * 1001}]


def pair(*files: Path, **options: Any) -> tuple[ExampleStore, StreamedStore]:
    streamed_store = prepare(files, WordEncoder(), streaming=True, **options)
    assert isinstance(streamed_store, StreamedStore)
    options.pop("salt", None)
    return prepare(files, WordEncoder(), **options), streamed_store


def assert_same(one: ExampleStore, other: ExampleStore) -> None:
    assert len(one) == len(other) > 0
    for index in range(len(one)):
        for mine, yours in zip(one[index], other[index], strict=True):
            assert mine.dtype == yours.dtype == np.int32
            assert np.array_equal(mine, yours)
        assert one.source(index) == other.source(index)
        assert one.digest(index) == other.digest(index)
        assert one.digest(index, b"7") == other.digest(index, b"7")
    for name in ("lengths", "trained"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype == np.int32


def test_answers_as_the_ordinary_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "WRITTEN_ROWS", 7)
    first, second = write(tmp_path / "a.jsonl", records()), write(tmp_path / "b.ndjson", records(9))
    first.write_bytes(b"\xef\xbb\xbf" + first.read_bytes().replace(b"\n", b"\r\n"))
    second.write_bytes(second.read_bytes().rstrip(b"\n"))
    ordinary, streaming = pair(first, second)
    assert_same(ordinary, streaming)
    assert_same(ordinary, pickle.loads(pickle.dumps(streaming)))
    rows = np.array([5, 2, 2, 40])
    assert_same(ordinary.select(rows), streaming.select(rows))
    assert_same(ordinary.select(rows).select(rows[:1] - 3), streaming.select(rows).select(rows[:1] - 3))
    weights = {first: 1.5, second: 0.4}
    assert_same(weigh(ordinary, weights, 3), weigh(streaming, weights, 3))
    unlike = {"cache_folder", "seconds"}
    reports = [{k: v for k, v in vars(s.report).items() if k not in unlike} for s in (ordinary, streaming)]
    assert reports[0] == reports[1]
    for index in (-1, len(streaming)):
        with pytest.raises(IndexError, match=f"example {index} of {len(streaming)}"):
            streaming[index]


def test_store_holds_52_bytes_an_example_and_no_tokens(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [7] * 900}] * 300)
    ordinary, streaming = pair(path, cache_dir=tmp_path / "cache")
    folder = Path(streaming.report.cache_folder)
    assert {file.name: file.stat().st_size for file in folder.iterdir()}["examples.rows"] == 52 * 300
    assert folder != Path(ordinary.report.cache_folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20_000
    again = prepare([path], WordEncoder(), cache_dir=tmp_path / "cache", streaming=True)
    assert again.report.cache_hit
    assert len(pickle.dumps(again)) < 5000


def test_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "PARALLEL_BYTES", 0)
    path = write(tmp_path / "a.jsonl", records(200))
    stores = [
        prepare([path], WordEncoder(), cache_dir=tmp_path / str(w), workers=w, streaming=True) for w in (0, 2)
    ]
    assert len({(Path(s.report.cache_folder) / "examples.rows").read_bytes() for s in stores}) == 1


def test_overlong_and_faulty_lines_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glm_train.data.readers.record.MAX_RECORD_BYTES", 60)
    lines = ["{broken", {"ids": [1, 2]}, "x" * 4000, {"ids": [3, 4]}, "[]", {"ids": [5, 6]}]
    ordinary, streaming = pair(write(tmp_path / "a.jsonl", lines), on_error="skip")
    assert ids_of(streaming) == [[1, 2], [3, 4], [5, 6]]
    assert_same(ordinary, streaming)


def test_split_and_duplicates_agree_and_read_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary, streaming = pair(write(tmp_path / "a.jsonl", records() * 2), salt=split_salt(3))
    expected = split_validation(ordinary, 0.2, 3)
    other_seed = split_validation(ordinary, 0.2, 4)
    found_other = split_validation(streaming, 0.2, 4)
    monkeypatch.setattr(StreamedStore, "__getitem__", lambda *_: pytest.fail("a record was read"))
    found = split_validation(streaming, 0.2, 3)
    duplicates = find_duplicates(*found)
    monkeypatch.undo()
    for mine, yours in zip((*expected, *other_seed), (*found, *found_other), strict=True):
        assert_same(mine, yours)
    assert duplicates == find_duplicates(*expected)
    assert duplicates.in_training > 0


def touched(path: Path, ns: int) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, ns))


@pytest.mark.parametrize("change", ["appended", "touched", "replaced"])
def test_changed_file_is_refused(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.jsonl", records())
    _, streaming = pair(path)
    before = path.stat().st_mtime_ns
    if change == "appended":
        with path.open("a") as file:
            file.write('{"ids": [9, 9]}\n')
        touched(path, before)
    elif change == "replaced":
        write(tmp_path / "new", records()[::-1]).rename(path)
    if change != "appended":
        touched(path, before + 1)
    with pytest.raises(DataError) as caught:
        streaming[3]
    assert str(caught.value).startswith(f"{path}: the file changed since it was prepared. ")


@pytest.mark.parametrize(
    "line",
    [
        '{"ids": [1,2,9]}',
        '{"ids": [1,2]}',
        '{"ids": [1,2,3]',
        '{"ide": [1,2,3]}',
        '{"ids":[1,2,3],"train":2}',
    ],
)
def test_other_record_of_the_same_size_and_time_is_refused(tmp_path: Path, line: str) -> None:
    """A clock that stands still hides the change; the tokens, the targets or the fault give it away."""
    width = 26
    path = write(tmp_path / "a.jsonl", ['{"ids": [1,2,3]}'.ljust(width), {"ids": [3, 4]}])
    _, streaming = pair(path)
    time, size = path.stat().st_mtime_ns, path.stat().st_size
    write(path, [line.ljust(width), {"ids": [3, 4]}])
    touched(path, time)
    assert path.stat().st_size == size
    with pytest.raises(DataError, match=r"a\.jsonl:1: the file changed since it was prepared"):
        streaming[0]
    assert streaming[1][0].tolist() == [3, 4]


def test_missing_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", records())
    _, streaming = pair(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read any more: No such file"):
        streaming[0]
    with pytest.raises(DataError, match=r"a\.jsonl: no such file"):
        prepare([path], WordEncoder(), streaming=True)


def test_file_that_changed_is_prepared_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    pair(path)
    write(path, [{"ids": [3, 4]}])
    ordinary, streaming = pair(path)
    assert not streaming.report.cache_hit
    assert_same(ordinary, streaming)


def test_damaged_cache_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", records())
    ordinary, streaming = pair(path, cache_dir=tmp_path / "cache")
    rows = Path(streaming.report.cache_folder) / "examples.rows"
    rows.write_bytes(rows.read_bytes()[:-1])
    again = prepare([path], WordEncoder(), cache_dir=tmp_path / "cache", streaming=True)
    assert not again.report.cache_hit
    assert_same(ordinary, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_fault_while_loading_is_said_in_one_line(tmp_path: Path, workers: int) -> None:
    path = write(tmp_path / "a.jsonl", [{"ids": [i, i]} for i in range(8)])
    _, streaming = pair(path)
    steps = [RankStep(((i,),), 1) for i in range(8)]
    loader = PackedLoader(
        PackedDataset(streaming),
        sampler=steps,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
    )
    assert [batch.input_ids.flatten().tolist() for (batch,) in loader] == [[i, i] for i in range(8)]
    path.unlink()
    with pytest.raises(DataError) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: cannot be read any more")


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('[{"ids": [1, 2]}]')
    for read in (
        lambda: prepare([path], WordEncoder(), streaming=True),
        lambda: find_sources([str(path)], split="train", streaming=True),
    ):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: data.streaming reads JSON Lines")
        assert "leave data.streaming out" in str(caught.value)


def test_data_sets_are_refused_before_they_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_train.data.sources.download", lambda *_: pytest.fail("it was fetched"))
    (tmp_path / "saved").mkdir()
    good = write(tmp_path / "a.jsonl", [{"ids": [1, 2]}])
    names = [f"{good}:2", "owner/name", "owner/name:train_sft:2", "owner/name:config/train"]
    names += [f"{tmp_path / 'saved'}", f"{tmp_path / 'saved'}:test:0.5"]
    with pytest.raises(DataError) as caught:
        find_sources(names, split="train", streaming=True)
    lines = str(caught.value).splitlines()
    assert [line.split(": data.streaming")[0] for line in lines] == names[1:]
    assert "this is a data set of the Hugging Face hub" in lines[0]
    assert "this is a folder" in lines[-1]
    assert find_sources(names[:1], split="train", streaming=True)[0].files == (good,)


@pytest.mark.parametrize("fraction", [None, 0.3])
def test_settings_and_a_real_tokenizer(model_folder: Path, chat_file: Path, fraction: float | None) -> None:
    found = []
    for streaming in ("true", "false"):
        config = configure(
            model_folder,
            f"{chat_file}:2",
            None,
            data__streaming=streaming,
            data__validation_fraction=fraction,
        )
        data = build_data(config, *build_tokenizer(config))
        found.append((data.train, data.validation))
    (train, validation), (ordinary, held_out) = found
    assert isinstance(train, StreamedStore)
    assert type(ordinary) is ExampleStore
    assert_same(ordinary, train)
    assert_same(ordinary, pickle.loads(pickle.dumps(train)))
    assert (validation is None) == (held_out is None) == (fraction is None)
    if validation is not None and held_out is not None:
        assert_same(held_out, validation)
