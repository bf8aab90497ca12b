"""Saved run states: what goes in comes out, order is by step, pruning counts right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from glm_train.checkpoint.resume import load_state, newest_valid, prune, save_state
from glm_train.errors import CheckpointError


def state(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {
        "model": {"weight": torch.full((3, 2), value)},
        "rng": {"cpu": torch.arange(5, dtype=torch.uint8)},
    }


def save(directory: Path, step: int, value: float | None = None) -> Path:
    tensors = state(float(step) if value is None else value)
    return save_state(directory, f"step-{step:08d}", tensors=tensors, meta={"step": step})


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def damage(path: Path) -> None:
    file = path / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    dtypes = [
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.complex64,
    ]
    tensors = {
        "model": {str(dtype): torch.ones(2, 3).to(dtype) for dtype in dtypes},
        "optimizer": {
            "scalar": torch.tensor(7.0),
            "empty": torch.zeros(0, 3),
            "turned": torch.arange(6.0).view(2, 3).t(),
            "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
            "grad": torch.ones(2, requires_grad=True),
        },
        "none": {},
    }
    tensors["model"]["tied"] = tensors["model"]["torch.float32"]
    meta = {"step": 40, "epoch": 1.5, "name": "学", "nested": {"list": [1, None, True]}, "empty": {}}
    path = save_state(tmp_path / "runs" / "checkpoints", "step-00000040", tensors=tensors, meta=meta)
    assert path == tmp_path / "runs" / "checkpoints" / "step-00000040"
    loaded, loaded_meta = load_state(path)
    assert loaded_meta == meta
    assert {group: set(part) for group, part in loaded.items()} == {
        group: set(part) for group, part in tensors.items()
    }
    for group, part in tensors.items():
        for name, tensor in part.items():
            found = loaded[group][name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert (
                torch.equal(found.nan_to_num(), tensor.nan_to_num())
                if name == "nan"
                else torch.equal(found, tensor)
            )
    assert torch.equal(torch.signbit(loaded["optimizer"]["nan"]), torch.signbit(tensors["optimizer"]["nan"]))


def test_loaded_tensors_survive_the_removal_of_their_files(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    tensors, _ = load_state(path)
    file = path / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert tensors["model"]["weight"].eq(1).all()
    tensors["model"]["weight"].add_(1)


@pytest.mark.parametrize(
    "meta",
    [{"a": float("nan")}, {"a": (1, 2)}, {1: "a"}, {"a": torch.zeros(1)}, {"a": Path("x")}, {"a": {1, 2}}],
)
def test_meta_must_be_plain_json(tmp_path: Path, meta: dict) -> None:
    with pytest.raises((TypeError, ValueError)):
        save_state(tmp_path / "c", "a", tensors={}, meta=meta)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["", "../up", ".tmp-a", "a/b", "a b", "a.b", "é"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="use letters"):
        save_state(tmp_path, name, tensors={}, meta={})
    with pytest.raises(ValueError, match="use letters"):
        save_state(tmp_path, "a", tensors={name: {}}, meta={})


def test_same_name_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    path = save(tmp_path, 1, 2.0)
    assert load_state(path)[0]["model"]["weight"].eq(2).all()
    assert names(tmp_path) == ["step-00000001"]


def test_files_and_manifest(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert names(path) == ["manifest.json", "model.safetensors", "rng.safetensors", "state.json"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["version"] == 1
    assert manifest["files"]["state.json"]["bytes"] == (path / "state.json").stat().st_size


class TestNewestValid:
    def test_nothing_there(self, tmp_path: Path) -> None:
        assert newest_valid(tmp_path / "none") == (None, [])
        assert newest_valid(tmp_path) == (None, [])

    def test_by_number_not_by_spelling_or_time(self, tmp_path: Path) -> None:
        for name in ("step-100", "step-9", "step-20"):
            save_state(tmp_path, name, tensors={}, meta={})
        assert newest_valid(tmp_path) == (tmp_path / "step-100", [])

    def test_name_without_number_uses_meta(self, tmp_path: Path) -> None:
        save(tmp_path, 5)
        save_state(tmp_path, "final", tensors={}, meta={"step": 7})
        save_state(tmp_path, "odd", tensors={}, meta={})
        assert newest_valid(tmp_path)[0] == tmp_path / "final"

    def test_falls_back_with_reasons(self, tmp_path: Path) -> None:
        for step in (1, 2, 3, 4):
            save(tmp_path, step)
        damage(tmp_path / "step-00000004")
        (tmp_path / "step-00000003" / "manifest.json").unlink()
        path, reasons = newest_valid(tmp_path)
        assert path == tmp_path / "step-00000002"
        assert "step-00000004/model.safetensors: the content is not what was written" in reasons[0]
        assert "step-00000003: no manifest.json" in reasons[1]
        assert len(reasons) == 2

    def test_none_valid(self, tmp_path: Path) -> None:
        damage(save(tmp_path, 1))
        path, reasons = newest_valid(tmp_path)
        assert path is None
        assert len(reasons) == 1

    def test_stray_files_are_no_states(self, tmp_path: Path) -> None:
        save(tmp_path, 1)
        (tmp_path / "notes-99").write_text("mine")
        (tmp_path / "link-98").symlink_to(tmp_path / "step-00000001")
        assert newest_valid(tmp_path) == (tmp_path / "step-00000001", [])


class TestPrune:
    @pytest.mark.parametrize(
        ("keep", "left"), [(1, [5]), (2, [4, 5]), (5, [1, 2, 3, 4, 5]), (9, [1, 2, 3, 4, 5])]
    )
    def test_keeps_the_newest(self, tmp_path: Path, keep: int, left: list[int]) -> None:
        for step in (3, 1, 5, 2, 4):
            save(tmp_path, step)
        removed = prune(tmp_path, keep)
        assert names(tmp_path) == [f"step-{step:08d}" for step in left]
        assert [path.name for path in removed] == [f"step-{n:08d}" for n in range(1, 6) if n not in left]

    def test_the_newest_must_be_valid(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            save(tmp_path, step)
        damage(tmp_path / "step-00000003")
        assert [path.name for path in prune(tmp_path, 1)] == ["step-00000001"]
        assert newest_valid(tmp_path)[0] == tmp_path / "step-00000002"

    def test_nothing_valid_nothing_removed(self, tmp_path: Path) -> None:
        for step in (1, 2):
            damage(save(tmp_path, step))
        assert prune(tmp_path, 1) == []
        assert len(names(tmp_path)) == 2

    def test_unfinished_ones_do_not_count(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            save(tmp_path, step)
        (tmp_path / "step-00000002" / "manifest.json").unlink()
        assert prune(tmp_path, 2) == []

    def test_keep_must_be_positive(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            prune(tmp_path, 0)

    def test_of_nothing(self, tmp_path: Path) -> None:
        assert prune(tmp_path / "none", 1) == []


def test_missing_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such saved state"):
        load_state(tmp_path / "step-1")
