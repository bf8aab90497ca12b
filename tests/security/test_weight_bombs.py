"""Pickles in model folders and saved runs are refused unread; claimed sizes are not allocated."""

from __future__ import annotations

import os
import pickle
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from glm_train.checkpoint.index import INDEX_NAME, SINGLE_NAME, read_index
from glm_train.checkpoint.resume import load_state
from glm_train.checkpoint.safetensors_file import MAX_HEADER_BYTES
from glm_train.checkpoint.weights import load_weights
from glm_train.errors import CheckpointError


class Bomb:
    """A pickle that would create a file when read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pth", "run.ckpt", SINGLE_NAME, "zip:pytorch_model.bin"]
)
def test_pickles_are_refused_unread(tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "model"
    folder.mkdir()
    if name.startswith("zip:"):
        with zipfile.ZipFile(folder / name.removeprefix("zip:"), "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(canary)))
    else:
        (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(CheckpointError, match=r"pickles|header"):
        load_weights(nn.Linear(2, 2), folder)
    assert not canary.exists()


@pytest.mark.parametrize("name", [".metadata", "rng_state.pth", "state.json"])
def test_pickles_in_a_saved_run_are_refused_unread(tmp_path: Path, name: str) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "step-00000001"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Bomb(canary)))
    with pytest.raises(CheckpointError, match="no manifest"):
        load_state(folder)
    assert not canary.exists()


def claimed_terabytes(folder: Path) -> None:
    header = b'{"t":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (folder / SINGLE_NAME).write_bytes(len(header).to_bytes(8, "little") + header)


def sparse_header(folder: Path) -> None:
    """A header of 200 MB that takes no room on the disk."""
    with (folder / SINGLE_NAME).open("wb") as file:
        file.write((200 * 2**20).to_bytes(8, "little"))
        file.truncate(300 * 2**20)


def many_tensors(folder: Path) -> None:
    header = b"{" + b",".join(b'"%d":{}' % n for n in range(MAX_HEADER_BYTES // 12)) + b"}"
    assert MAX_HEADER_BYTES * 0.7 < len(header) < MAX_HEADER_BYTES
    (folder / SINGLE_NAME).write_bytes(len(header).to_bytes(8, "little") + header)


def nested_header(folder: Path) -> None:
    header = b'{"a":' * 2_000_000
    (folder / SINGLE_NAME).write_bytes(len(header).to_bytes(8, "little") + header)


def huge_index(folder: Path) -> None:
    (folder / SINGLE_NAME).unlink(missing_ok=True)
    with (folder / INDEX_NAME).open("wb") as file:
        file.truncate(10 * 2**30)


@pytest.mark.parametrize("bomb", [claimed_terabytes, sparse_header, many_tensors, nested_header, huge_index])
def test_bombs_fail_fast_and_small(tmp_path: Path, bomb: Callable[[Path], None]) -> None:
    bomb(tmp_path)
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError):
        read_index(tmp_path)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 512 * 1024
