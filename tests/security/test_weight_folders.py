"""Hostile model folders: nothing outside is read, and nothing is loaded from a folder that does not add up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glm_train.checkpoint.index import INDEX_NAME, SINGLE_NAME, read_index
from glm_train.checkpoint.weights import load_weights
from glm_train.errors import CheckpointError

SHARD = "model-00001-of-00001.safetensors"


def tensors(value: float = 0.0) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 2), value), "bias": torch.full((2,), value)}


def write_index(folder: Path, weight_map: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`model/` with one sound shard, and weights beside it that it must not reach."""
    (tmp_path / "outside").mkdir()
    save_file(tensors(666.0), tmp_path / "outside" / "evil.safetensors")
    write_index(tmp_path / "model", dict.fromkeys(tensors(), SHARD))
    save_file(tensors(), tmp_path / "model" / SHARD)
    load_weights(nn.Linear(2, 2), tmp_path / "model")
    return tmp_path / "model"


POINTERS = [
    "../outside/evil.safetensors",
    "/{root}/outside/evil.safetensors",
    "./../outside/evil.safetensors",
    "sub/../../outside/evil.safetensors",
    "sub/evil.safetensors",
    "..\\outside\\evil.safetensors",
    "~/evil.safetensors",
    "file:///outside/evil.safetensors",
    "evil.safetensors\0.txt",
    "évil.safetensors",
    ".hidden.safetensors",
    "model.safetensors\n",
    "pytorch_model.bin",
    "",
    "..",
    None,
    3,
    ["model.safetensors"],
]


@pytest.mark.parametrize("pointer", POINTERS)
def test_index_that_points_elsewhere_is_not_followed(folder: Path, pointer: object) -> None:
    if isinstance(pointer, str):
        pointer = pointer.replace("/{root}", str(folder.parent))
    write_index(folder, {"weight": SHARD, "bias": pointer})
    with pytest.raises(CheckpointError, match=r"'bias'.*is not the plain name of a safetensors file"):
        read_index(folder)


def no_index(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()


def missing_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def shard_is_a_folder(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).mkdir()


def shard_is_a_pipe(folder: Path) -> None:
    (folder / SHARD).unlink()
    os.mkfifo(folder / SHARD)


def link_to_a_device(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to("/dev/zero")


def link_out(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to("../outside/evil.safetensors")


def link_chain_out(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / "a.safetensors").symlink_to("../outside/evil.safetensors")
    (folder / SHARD).symlink_to("a.safetensors")


def dangling_link(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to("gone.safetensors")


def link_in_a_circle(folder: Path) -> None:
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to(SHARD)


def single_file_links_out(folder: Path) -> None:
    (folder / SINGLE_NAME).symlink_to("../outside/evil.safetensors")


def index_links_out(folder: Path) -> None:
    (folder / INDEX_NAME).rename(folder.parent / "outside" / INDEX_NAME)
    (folder / INDEX_NAME).symlink_to(f"../outside/{INDEX_NAME}")


def index_is_not_json(folder: Path) -> None:
    (folder / INDEX_NAME).write_text("{'weight_map': {}}")


def index_is_binary(folder: Path) -> None:
    (folder / INDEX_NAME).write_bytes(b"\xff\xfe\x00")


def index_is_a_list(folder: Path) -> None:
    (folder / INDEX_NAME).write_text("[]")


def index_nests_deeply(folder: Path) -> None:
    (folder / INDEX_NAME).write_text("[" * 10**6)


def index_names_a_tensor_twice(folder: Path) -> None:
    (folder / INDEX_NAME).write_text(f'{{"weight_map": {{"bias": "{SHARD}", "bias": "{SHARD}"}}}}')


def empty_map(folder: Path) -> None:
    write_index(folder, {})


def map_is_a_list(folder: Path) -> None:
    write_index(folder, [SHARD])


def map_promises_more(folder: Path) -> None:
    write_index(folder, dict.fromkeys([*tensors(), "extra"], SHARD))


def map_leaves_one_out(folder: Path) -> None:
    write_index(folder, {"weight": SHARD})


def tensor_in_two_shards(folder: Path) -> None:
    save_file({"bias": torch.ones(2)}, folder / "second.safetensors")
    write_index(folder, {"weight": SHARD, "bias": "second.safetensors"})


def shards_swapped(folder: Path) -> None:
    save_file({"weight": torch.ones(2, 2)}, folder / "w.safetensors")
    save_file({"bias": torch.ones(2)}, folder / "b.safetensors")
    write_index(folder, {"weight": "b.safetensors", "bias": "w.safetensors"})


def shard_truncated(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[: len(data) // 2])


def shard_lost_its_last_byte(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (no_index, "neither model.safetensors nor"),
    (missing_shard, "the file is missing"),
    (shard_is_a_folder, "not a regular file"),
    (shard_is_a_pipe, "not a regular file"),
    (link_to_a_device, "leads out of the model folder, to /dev/zero"),
    (link_out, "leads out of the model folder"),
    (link_chain_out, "leads out of the model folder"),
    (dangling_link, "the file is missing"),
    (link_in_a_circle, "circle|missing|cannot be read"),
    (single_file_links_out, "leads out of the model folder"),
    (index_links_out, "leads out of the model folder"),
    (index_is_not_json, "not sound JSON"),
    (index_is_binary, "not sound JSON"),
    (index_is_a_list, "expected an object with a 'weight_map'"),
    (index_nests_deeply, "nested too deeply"),
    (index_names_a_tensor_twice, "'bias' comes twice"),
    (empty_map, "expected an object with a 'weight_map'"),
    (map_is_a_list, "expected an object with a 'weight_map'"),
    (map_promises_more, "lacks 1 tensor.*'extra'"),
    (map_leaves_one_out, "holds tensor 'bias', but the index does not name it"),
    (tensor_in_two_shards, "'bias'"),
    (shards_swapped, "but the index puts it into"),
    (shard_truncated, "too short|the file holds"),
    (shard_lost_its_last_byte, "the file holds 23"),
]


@pytest.mark.parametrize(("spoil", "reason"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_spoilt_folder_is_refused_and_nothing_is_loaded(
    folder: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(folder)
    module = nn.Linear(2, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_weights(module, folder)
    assert str(folder) in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_folder_of_the_hubs_cache_loads(tmp_path: Path) -> None:
    """The cache is links from snapshots/<commit>/ to the blobs of the same repository."""
    repository = tmp_path / "models--zai-org--tiny"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    save_file(tensors(3.0), repository / "blobs" / "abc")
    (snapshot / SINGLE_NAME).symlink_to("../../blobs/abc")
    module = nn.Linear(2, 2)
    load_weights(module, snapshot)
    assert module.weight.eq(3).all()


def test_cache_of_another_repository_is_outside(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for repository in (mine, other):
        (repository / "blobs").mkdir(parents=True)
        (repository / "snapshots" / "0").mkdir(parents=True)
    save_file(tensors(), other / "blobs" / "abc")
    (mine / "snapshots" / "0" / SINGLE_NAME).symlink_to("../../../other/blobs/abc")
    with pytest.raises(CheckpointError, match="leads out of the model folder"):
        read_index(mine / "snapshots" / "0")


def test_a_link_to_the_folder_itself_is_the_users_choice(folder: Path) -> None:
    (folder.parent / "link").symlink_to("model")
    load_weights(nn.Linear(2, 2), folder.parent / "link")
