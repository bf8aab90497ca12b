"""What `data.train` may name: files with weights, saved data sets, data sets on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from glm_train.data import hub_data
from glm_train.data.records import read_records
from glm_train.data.source_names import split_weight
from glm_train.data.sources import files_of, find_source, find_sources
from glm_train.errors import DataError

RECORDS = [
    {"messages": [{"role": "user", "content": f"u{i}"}, {"role": "assistant", "content": f"a{i}"}]}
    for i in range(6)
]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def lines(path: Path, count: int = 6) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[:count]))
    return path


def values(*names: Any, split: str = "train") -> list[Any]:
    sources = find_sources([str(name) for name in names], split=split)
    return [record.value for file in files_of(sources) for record in read_records(file)]


def refusal(*names: Any, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        find_sources([str(name) for name in names], split=split)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jsonl", ("a.jsonl", None)),
        ("a.jsonl:2", ("a.jsonl", 2.0)),
        ("a.jsonl:.5", ("a.jsonl", 0.5)),
        ("a.jsonl:1e2", ("a.jsonl", 100.0)),
        ("a.jsonl:-1", ("a.jsonl", -1.0)),
        ("a.jsonl:inf", ("a.jsonl", float("inf"))),
        ("owner/name:train", ("owner/name:train", None)),
        ("owner/name:train:2", ("owner/name:train", 2.0)),
        ("owner/name:2024-01", ("owner/name:2024-01", None)),
        (":2", (":2", None)),
        ("a.jsonl:", ("a.jsonl:", None)),
    ],
)
def test_weight_in_a_name(name: str, expected: tuple[str, float | None]) -> None:
    assert split_weight(name) == expected


def test_files_with_weights(tmp_path: Path) -> None:
    a, b = lines(tmp_path / "a.jsonl"), lines(tmp_path / "b.jsonl", 2)
    sources = find_sources([str(a), f"{b}:0.5"], split="train")
    assert [(source.files, source.weight) for source in sources] == [((a,), 1.0), ((b,), 0.5)]


def test_existing_file_of_the_whole_name_wins(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", 1)
    odd = lines(tmp_path / "odd:2.jsonl", 2)
    assert len(values(odd)) == 2
    link = tmp_path / "a.jsonl:2"
    link.symlink_to(odd)
    assert find_source(str(link), split="train").weight == 1.0
    assert find_source(str(link), split="train").files == (link,)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1001", "0.0"])
def test_weights_that_cannot_be(tmp_path: Path, weight: str) -> None:
    name = f"{lines(tmp_path / 'a.jsonl')}:{weight}"
    assert refusal(name).startswith(
        f"{name}: a weight, the number after a colon, must be above 0 and at most 1000, got"
    )


def test_all_faults_at_once(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl")
    found = refusal(a, tmp_path / "b.jsonl", f"{a}:two", f"{a}:0").splitlines()
    assert found[0].startswith(f"{tmp_path / 'b.jsonl'}: no such file.")
    assert found[1] == (
        f"{a}:two: no such file. {str(a)!r} is one, but 'two' is no weight: write a number after the colon."
    )
    assert found[2].startswith(f"{a}:0: a weight, ")
    assert len(found) == 3


def test_a_file_named_twice(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl")
    (tmp_path / "link.jsonl").symlink_to(a)
    for other in (f"{a}:2", tmp_path / "link.jsonl", f"{tmp_path}/../{tmp_path.name}/a.jsonl"):
        assert refusal(a, other).startswith(
            f"{other}: the file is named twice, first by {str(a)!r}. Name it once"
        )


def test_saved_data_set(tmp_path: Path) -> None:
    datasets.Dataset.from_list(RECORDS).save_to_disk(tmp_path / "one", num_shards=2)
    assert values(tmp_path / "one") == RECORDS
    source = find_source(f"{tmp_path / 'one'}:3", split="train")
    assert (source.weight, len(source.files)) == (3.0, 2)
    assert refusal(f"{tmp_path / 'one'}:test") == (
        f"{tmp_path / 'one'}: it holds a single data set, without splits. Leave out ':test'."
    )


def test_saved_splits(tmp_path: Path) -> None:
    folder = tmp_path / "a:b" / "both"
    parts = {"train": RECORDS[:4], "validation": RECORDS[4:]}
    datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()}).save_to_disk(folder)
    assert values(folder) == RECORDS[:4]
    assert values(folder, split="validation") == values(f"{folder}:validation") == RECORDS[4:]
    assert find_source(f"{folder}:validation:2", split="train").weight == 2.0
    assert refusal(f"{folder}:test") == (
        f"{folder}: it has no split 'test', only train, validation. Name one of them: {folder}:train."
    )
    assert "'../x' is not the name of a split" in refusal(f"{folder}:../x")


def test_json_features_are_read(tmp_path: Path) -> None:
    """`datasets` stores objects that differ from row to row as marked JSON."""
    calls = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {"y": "s"}}]
    records = [{"messages": [{"role": "assistant", "tool_calls": [{"function": c}]}]} for c in calls]
    source = tmp_path / "hub"
    source.mkdir()
    (source / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    loaded = datasets.load_dataset(str(source), split="train", cache_dir=str(tmp_path / "cache"))
    loaded.save_to_disk(tmp_path / "saved")
    assert values(tmp_path / "saved") == records


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"_data_files": [{"filename": "../outside.arrow"}]},
            "lists '../outside.arrow', which is not an Arrow file",
        ),
        ({"_data_files": [{"filename": "/etc/passwd"}]}, "lists '/etc/passwd', which is not an Arrow file"),
        (
            {"_data_files": [{"filename": "link.arrow"}]},
            "lists 'link.arrow', which is not an Arrow file in this folder",
        ),
        ({"_data_files": [{"filename": 3}]}, "lists 3, which is not an Arrow file"),
        ({"_data_files": []}, "state.json lists no data file"),
        ({"_data_files": ["x"]}, "it has no readable list '_data_files'"),
        ({"_data_files": None}, "it has no readable list '_data_files'"),
        ({}, "it has no readable list '_data_files'"),
        ("{", "it has no readable list '_data_files'"),
        ("[" * 100_000, "it has no readable list '_data_files'"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "no such file"),
    ],
)
def test_states_that_lie(tmp_path: Path, state: Any, message: str) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    with pa.ipc.new_stream(str(tmp_path / "outside.arrow"), pa.schema([("a", pa.int32())])):
        pass
    (folder / "link.arrow").symlink_to(tmp_path / "outside.arrow")
    (folder / "state.json").write_text(state if isinstance(state, str) else json.dumps(state))
    text = refusal(folder)
    assert str(folder) in text
    assert message in text


def test_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith(
        f"{tmp_path / 'empty'}: this is a folder without data files. Name"
    )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A folder stands in for the hub; all else is the real way. Returns what was asked for."""
    folder = tmp_path / "repository"
    folder.mkdir()
    lines(folder / "train.jsonl", 4)
    lines(folder / "train_sft.jsonl", 2)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: train.jsonl}\n"
        "  - {split: train_sft, path: train_sft.jsonl}\n---\n"
    )
    asked: list[tuple[Any, ...]] = []

    def load(hub_id: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((hub_id, config, split))
        return datasets.load_dataset(str(folder), config, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(hub_data, "_load", load)
    return asked


def test_hub_data_set(hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert values("owner/name") == RECORDS[:4]
    assert values("owner/name:train_sft") == RECORDS[:2]
    assert values("owner/name:main/train_sft") == RECORDS[:2]
    assert find_source("owner/name:train_sft:2", split="train").weight == 2.0
    assert hub[:3] == [
        ("owner/name", None, "train"),
        ("owner/name", None, "train_sft"),
        ("owner/name", "main", "train_sft"),
    ]


def test_hub_refusals(hub: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal("owner/name", split="validation")
    assert text.startswith(
        'owner/name: the data set cannot be loaded: Unknown split "validation". Should be one of'
    )
    assert text.endswith("Name one of its splits: owner/name:SPLIT.")
    text = refusal("owner/name:other/train")
    assert "BuilderConfig 'other' not found" in text
    assert text.endswith("Name one of its configurations, with a split: owner/name:CONFIG/train.")
    assert "is not the name of a split" in refusal("owner/name:train[:10%]")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    text = refusal("no-such-owner/no-such-name")
    assert text.startswith("no-such-owner/no-such-name: the data set cannot be loaded: Couldn't reach")
    assert "for a local file, no file of this name was found" in text


@pytest.mark.parametrize(
    "name", ["data/train", "gone.jsonl", "gone/a.jsonl", "gone/a.txt", "imdb", "a/b/c", "/a/b", "~"]
)
def test_only_what_can_be_a_hub_id_is_looked_up(
    hub: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert f"{name}: no such file" in refusal(name)
    assert not hub
