"""Pickles run code when they are read. None is: not under any usual name, not beside sound weights, not in a run."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_train.checkpoint.resume import load_state
from glm_train.errors import CheckpointError
from support.refusals import CANARY, Spoil, WatchedProcess

WEIGHTS, INDEX = "model.safetensors", "pytorch_model.bin.index.json"


class Bomb:
    """A pickle that creates a folder when it is read."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.canary),)


def bomb(folder: Path) -> bytes:
    return pickle.dumps(Bomb(folder.parent / CANARY))


def zipped(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)


def only(*names: str, member: str | None = None) -> Spoil:
    """Pickles of these names (zip files with `member`, as torch writes them) in place of the weights."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        for name in names:
            if member:
                zipped(folder / name, member, bomb(folder))
            else:
                (folder / name).write_bytes(bomb(folder))

    return spoil


def beside(*names: str) -> Spoil:
    """Pickles of these names beside the weights."""

    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(bomb(folder))

    return spoil


def indexed(folder: Path) -> None:
    """An index that leads to pickled shards."""
    only("pytorch_model-00001-of-00001.bin")(folder)
    shard = {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}
    (folder / INDEX).write_text(json.dumps({"weight_map": shard}))


def object_array(folder: Path) -> None:
    """A .npy whose header says that its objects are pickled."""
    (folder / WEIGHTS).unlink()
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    (folder / "model.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bomb(folder)
    )


def nothing(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def disguised(as_zip: bool) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        if as_zip:
            zipped(folder / WEIGHTS, "archive/data.pkl", bomb(folder))
        else:
            (folder / WEIGHTS).write_bytes(bomb(folder))

    return spoil


ONLY = "weights only as pickles"
REFUSED: dict[str, tuple[Spoil, str]] = {
    "torch, one file": (only("pytorch_model.bin"), ONLY),
    "torch, zipped": (only("pytorch_model.bin", member="archive/data.pkl"), ONLY),
    "torch, sharded": (indexed, ONLY),
    "pt": (only("model.pt"), ONLY),
    "pth": (only("consolidated.00.pth"), ONLY),
    "ckpt": (only("epoch=1.ckpt"), ONLY),
    "random state": (only("rng_state.pth"), ONLY),
    "pkl": (only("model.pkl"), ONLY),
    "pickle": (only("weights.pickle"), ONLY),
    "joblib": (only("model.joblib"), ONLY),
    "numpy objects": (object_array, ONLY),
    "numpy archive": (only("model.npz", member="weight.npy"), ONLY),
    "distributed checkpoint, metadata": (only(".metadata"), "neither model.safetensors nor"),
    "distributed checkpoint, bytes": (only(".metadata", "__0_0.distcp"), ONLY),
    "pickle called safetensors": (disguised(as_zip=False), "too short for its safetensors header"),
    "zip called safetensors": (disguised(as_zip=True), "too short for its safetensors header"),
    "tensorflow": (only("tf_model.h5"), "neither model.safetensors nor"),
    "flax": (only("flax_model.msgpack"), "neither model.safetensors nor"),
    "no weights at all": (nothing, "neither model.safetensors nor"),
    "config.json": (beside("config.json"), "config.json"),
    "generation_config.json": (beside("generation_config.json"), "generation_config.json"),
}
LOADED: dict[str, Spoil] = {
    "torch weights": beside("pytorch_model.bin", INDEX),
    "trainer's leavings": beside("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    "code": beside("modeling_glm.py", "__init__.py", "model.pkl"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pickle_is_refused_unread(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    spoil, reason = REFUSED[case]
    watched.load_spoilt(sound_folder, spoil, tmp_path).assert_refused(reason)


@pytest.mark.parametrize("case", LOADED)
def test_pickle_beside_the_weights_is_not_read(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    watched.load_spoilt(sound_folder, LOADED[case], tmp_path).assert_loaded()


@pytest.mark.parametrize("name", [".metadata", "rng_state.pth", "state.json"])
def test_pickle_in_a_saved_run_is_refused_unread(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "step-00000001"
    folder.mkdir()
    (folder / name).write_bytes(bomb(folder))
    with pytest.raises(CheckpointError, match="no manifest"):
        load_state(folder)
    assert not (tmp_path / CANARY).exists()


def test_the_bomb_is_live(tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    pickle.loads(bomb(tmp_path / "model"))
    assert (tmp_path / CANARY).is_dir()
