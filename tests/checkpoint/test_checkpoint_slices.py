"""Saved tensors by rows: any rows of any pieces, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glm_train.checkpoint.resume import load_state, save_state
from glm_train.checkpoint.safetensors_file import write_tensors
from glm_train.checkpoint.sharded import open_state, prepare_save
from glm_train.checkpoint.slices import Piece, SavedTensor, check_cover, like, own_rows, put
from glm_train.errors import CheckpointError


@pytest.fixture
def saved(tmp_path: Path) -> tuple[SavedTensor, torch.Tensor]:
    """Seven rows in pieces of 3, 0 and 4."""
    whole = torch.arange(14.0).reshape(7, 2)
    pieces = []
    for number, (start, stop) in enumerate([(0, 3), (3, 3), (3, 7)]):
        file = tmp_path / f"{number}.safetensors"
        write_tensors(file, {"w": whole[start:stop]})
        pieces.append(Piece(file, start, stop))
    return SavedTensor("w", torch.float32, (7, 2), tuple(pieces)), whole


@pytest.mark.parametrize("stop", range(8))
@pytest.mark.parametrize("start", range(8))
def test_any_rows_are_read(saved: tuple[SavedTensor, torch.Tensor], start: int, stop: int) -> None:
    tensor, whole = saved
    if start <= stop:
        assert torch.equal(tensor.rows(start, stop), whole[start:stop])


def test_a_plain_tensor_is_all_its_own_rows(saved: tuple[SavedTensor, torch.Tensor]) -> None:
    tensor, whole = saved
    target = torch.zeros(7, 2)
    part, start, stop = own_rows(target)
    assert (part.data_ptr(), start, stop) == (target.data_ptr(), 0, 7)
    put(target, tensor)
    assert torch.equal(target, whole)
    assert torch.equal(like(tensor, target), whole)
    number = torch.zeros(())
    put(number, torch.tensor(3.0))
    assert number == 3


@pytest.mark.parametrize("rows", [[(0, 3), (4, 7)], [(0, 3), (2, 7)], [(0, 3)], [(1, 7)], [(0, 3), (3, 8)]])
def test_rows_that_are_missing_or_come_twice_are_refused(tmp_path: Path, rows: list[tuple[int, int]]) -> None:
    pieces = tuple(Piece(tmp_path / "a", start, stop) for start, stop in rows)
    with pytest.raises(CheckpointError, match="rows"):
        check_cover("w", (7, 2), pieces, tmp_path)


def test_a_state_of_one_process_is_read_both_ways(tmp_path: Path) -> None:
    tensors = {"model": {"w": torch.randn(3, 2), "step": torch.tensor(4.0)}}
    random = {"random": {"cpu": torch.get_rng_state()}}
    path = prepare_save(tmp_path, "step-00000001", tensors=tensors, own=random, meta={"step": 1})()
    groups, meta = open_state(path)
    assert meta == {"step": 1}
    assert groups.keys() == {"model", "random"}
    assert torch.equal(groups["model"]["w"].rows(1, 3), tensors["model"]["w"][1:])
    assert groups["model"]["step"].whole() == 4
    assert torch.equal(load_state(path)[0]["random"]["cpu"], random["random"]["cpu"])


def test_an_altered_state_is_refused(tmp_path: Path) -> None:
    path = save_state(tmp_path, "step-00000001", tensors={"model": {"w": torch.ones(2)}}, meta={})
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_state(path)
    with pytest.raises(CheckpointError, match="no such saved state"):
        open_state(tmp_path / "step-2")
