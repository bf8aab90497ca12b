"""The settings of a run reach its data: sources, weights, stop tokens, faults; files are found before one is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glm_train.build_data import build_data, build_tokenizer, prepare_data
from glm_train.data import prepare as prepare_module
from glm_train.data.store import ExampleStore
from glm_train.errors import DataError
from support.runs import configure


def chats(path: Path, *questions: str) -> Path:
    records = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "I am fine"}]}
        for q in questions
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def build(
    model: Path, train: Any, *overrides: str, **settings: Any
) -> tuple[ExampleStore, ExampleStore | None]:
    config = configure(model, train, None, *overrides, **settings)
    data = build_data(config, *build_tokenizer(config))
    return data.train, data.validation


def test_weights(model_folder: Path, tmp_path: Path) -> None:
    a, b = chats(tmp_path / "a.jsonl", "1", "2"), chats(tmp_path / "b.jsonl", "3", "4", "5", "6")
    train, _ = build(model_folder, f"[{a}:2,{b}:0.5]")
    assert [train.source(i)[0] for i in range(len(train))] == [str(a)] * 4 + [str(b)] * 2
    assert any("weight 0.5, 4 examples stand 2 times in an epoch" in line for line in train.report.losses())
    config = configure(model_folder, f"[{a}:2,{b}:0.5]", None)
    data = prepare_data(config, *build_tokenizer(config))
    once, weights = data.train, data.weights
    assert len(once) == 6
    assert weights == {a: 2.0, b: 0.5}


def test_validation_is_never_weighed(model_folder: Path, tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", *map(str, range(40)))
    train, validation = build(model_folder, f"{path}:2", data__validation_fraction=0.25)
    assert validation is not None
    assert (len(train), len(validation)) == (60, 10)


def test_all_files_are_found_before_one_is_read(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = chats(tmp_path / "a.jsonl", "1")
    monkeypatch.setattr(prepare_module, "prepare", lambda *_, **__: pytest.fail("a file was read"))
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        build(model_folder, path, data__validation=tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        build(model_folder, f"[{path},{tmp_path / 'gone.jsonl'}]")


def test_faults_are_skipped_where_asked(model_folder: Path, tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", "1", "2")
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(DataError, match=r"a\.jsonl:1: the line is not JSON"):
        build(model_folder, path)
    train, _ = build(model_folder, path, data__on_error="skip")
    assert len(train) == 2
    assert "left out 1 records: faulty: the line is not JSON" in train.report.losses()[0]


def test_stop_token(model_folder: Path, tmp_path: Path) -> None:
    path = chats(tmp_path / "a.jsonl", "1")
    config = configure(model_folder, path, None)
    tokenizer = build_tokenizer(config)[0]
    last = [build(model_folder, path, data__stop_token=name)[0][0][1][-1] for name in ("role", "endoftext")]
    assert last == [tokenizer.token_to_id("<|user|>"), tokenizer.token_to_id("<|endoftext|>")]


@pytest.mark.parametrize("name", ["sharegpt", "alpaca", "prompt_completion"])
def test_layouts_by_name(model_folder: Path, tmp_path: Path, name: str) -> None:
    """Every layout gives the same tokens as its `messages` spelling."""
    spelt = {
        "sharegpt": {
            "conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "I am fine"}]
        },
        "alpaca": {"instruction": "1", "output": "I am fine"},
        "prompt_completion": {"prompt": "1", "completion": "I am fine"},
    }[name]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([spelt]))
    expected, labels = build(model_folder, chats(tmp_path / "b.jsonl", "1"))[0][0]
    for chosen in ("auto", name):
        ids, found = build(model_folder, path, data__format=chosen)[0][0]
        assert ids.tolist() == expected.tolist()
        assert found.tolist() == labels.tolist()
    with pytest.raises(DataError, match="the record has no `messages`"):
        build(model_folder, path, data__format="messages")
