"""`data.on_error`: the first fault stops, or faulty records are left out, counted by kind and shown with places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from word_encoder import WordEncoder, ids_of, refusal, write

from glm_train.data import encode
from glm_train.data import prepare as prepare_module
from glm_train.data.encode import Encoded, reason_of
from glm_train.data.prepare import prepare
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError, DataError

GOOD = [{"ids": [i, i]} for i in range(200)]


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(prepare_module, "PARALLEL_BYTES", 0)
    return request.param


def skip(*files: Path, **options: Any) -> ExampleStore:
    return prepare(files, WordEncoder(), on_error="skip", **options)


def faulty_file(folder: Path) -> Path:
    records: list[Any] = [*GOOD]
    for line in (3, 70, 71, 150, 180):
        records[line - 1] = {"id": "typo"}
    records[65 - 1] = "{broken"
    records[190 - 1] = '{"ids": [1, 2]'
    return write(folder / "a.jsonl", records)


def test_faulty_records_are_left_out_and_counted(tmp_path: Path, workers: int) -> None:
    path = faulty_file(tmp_path)
    store = skip(path, workers=workers, cache_dir=tmp_path / str(workers))
    assert len(store) == 193
    assert ids_of(store) == [
        record["ids"] for i, record in enumerate(GOOD, 1) if i not in (3, 65, 70, 71, 150, 180, 190)
    ]
    assert store.source(2) == (str(path), 4)
    report = store.report
    assert report.records == 200
    assert report.dropped == {
        "faulty: no ids": 5,
        "faulty: the line is not JSON: Expecting property name enclosed in double quotes at column N": 1,
        "faulty: the line is not JSON: Expecting '...' delimiter at column N": 1,
    }
    assert report.dropped_at["faulty: no ids"] == (f"{path}:3", f"{path}:70", f"{path}:71")
    assert f"left out 5 records: faulty: no ids (first: {path}:3, {path}:70, {path}:71)" in str(report)


def test_the_first_fault_stops(tmp_path: Path, workers: int) -> None:
    path = faulty_file(tmp_path)
    assert refusal(path, workers=workers) == f"{path}:3: no ids. Add them."
    later = write(tmp_path / "b.jsonl", [*GOOD[:100], "{broken", {"id": "typo"}])
    assert refusal(later, workers=workers).startswith(f"{later}:101: the line is not JSON")


def test_the_two_policies_do_not_share_a_cache(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    first = prepare([path], WordEncoder())
    assert not first.report.cache_hit
    assert not skip(path).report.cache_hit
    again = skip(path)
    assert again.report.cache_hit
    assert ids_of(again) == ids_of(first)


def test_counts_survive_the_cache(tmp_path: Path) -> None:
    path = faulty_file(tmp_path)
    first = skip(path).report
    again = skip(path).report
    assert again.cache_hit
    assert (again.dropped, again.dropped_at) == (first.dropped, first.dropped_at)


def test_file_in_which_all_is_faulty(tmp_path: Path, workers: int) -> None:
    good = write(tmp_path / "good.jsonl", GOOD)
    bad = write(tmp_path / "bad.jsonl", [{"id": 1}, {"id": 2}, "{"])
    with pytest.raises(DataError) as caught:
        skip(good, bad, workers=workers)
    text = str(caught.value)
    assert text.startswith(
        f"{bad}: every one of its 3 records is faulty: 2 faulty: no ids (first: {bad}:1); 1 faulty: "
    )
    assert "Correct it, or take the file out" in text


def test_reasons_that_are_no_faults_are_counted_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [*GOOD[:2], {"ids": [1] * 2000}, {"ids": [1, 2], "train": 0}, {"id": 1}]
    )
    assert skip(path).report.dropped == {
        "longer than data.max_length": 1,
        "no token of it is trained": 1,
        "faulty: no ids": 1,
    }
    only_long = write(tmp_path / "b.jsonl", [{"ids": [1] * 2000}, {"id": 1}])
    with pytest.raises(DataError, match="no example is left of 2 records: 1 longer than"):
        skip(only_long)


def test_many_kinds_of_faults_are_gathered(tmp_path: Path) -> None:
    class Inventive(WordEncoder):
        def __call__(self, value: dict[str, Any]) -> Encoded:
            if "fault" in value:
                raise DataError(f"fault {chr(65 + value['fault'])}. Mend it.")
            return super().__call__(value)

    path = write(tmp_path / "a.jsonl", [*GOOD[:2], *({"fault": i} for i in range(25))])
    dropped = prepare([path], Inventive(), on_error="skip").report.dropped
    assert len(dropped) == 21
    assert dropped["faulty: in other ways"] == 5


def test_records_under_way_are_bounded_by_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many records that are each as long as a record may be would else be in memory at once."""
    monkeypatch.setattr(encode, "CHUNK_BYTES", 2000)
    records = [*GOOD[:64], *[{"ids": [1, 2], "filler": "x" * 1100}] * 5]
    path = write(tmp_path / "a.jsonl", records)
    sizes = [len(examples) for _, examples, _ in encode.encode_files([path], WordEncoder(), workers=0)]
    assert sizes == [64, 2, 2, 1]
    assert ids_of(prepare([path], WordEncoder())) == [record["ids"] for record in records]


@pytest.mark.parametrize("on_error", ["warn", "", "Skip"])
def test_unknown_policy(tmp_path: Path, on_error: str) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(ConfigError, match=r"data\.on_error='.*' is unknown\. Use one of: error, skip"):
        prepare([path], WordEncoder(), on_error=on_error)


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_fault_of_ours_says_at_least_where(tmp_path: Path, policy: str, workers: int) -> None:
    path = write(tmp_path / "a.jsonl", [*GOOD[:5], {"ids": "abc"}])
    with pytest.raises(ValueError, match="invalid literal") as caught:
        prepare([path], WordEncoder(), on_error=policy, workers=workers)
    assert caught.value.__notes__ == [f"while reading {path}:6"]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("messages[3]: it has the role 'asistant'. Use one of: system, user.", "it has the role '...'"),
        ("conversations[0]: `tool_calls[2]` has no usable `name`. Write it.", "`tool_calls[N]` has no usable `name`"),
        ("`tools[1]` has no tool name. Write it.", "`tools[N]` has no tool name"),
        ("messages[12]: two user messages in a row; merge them", "two user messages in a row"),
        ("byte 0xff at column 8 is not UTF-8. Save the file.", "byte 0xN at column N is not UTF-8"),
        ("the row has 3 values, and the header 2 columns. Quote.", "the row has N values, and the header N columns"),
        ("`a` is no JSON: value at column 3 of \"x'y\". Mend it.", "`a` is no JSON: value at column N of '...'"),
        ("the escape \\ud83d is half of a pair. Remove it.", "the escape \\uN is half of a pair"),
        ("first line\nsecond line", "first line"),
    ],
)  # fmt: skip
def test_kind_of_a_fault(message: str, reason: str) -> None:
    assert reason_of(DataError(message)) == reason
