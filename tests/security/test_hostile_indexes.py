"""Hostile model.safetensors.index.json: nothing outside the folder is opened, and what does not add up is refused.

Every case goes through the public `from_pretrained`. Beside the model lies a folder with weights that it must not
reach; they are of the right names and shapes, so a load that reached them would succeed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from support.refusals import OUTSIDE, Spoil, WatchedProcess

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
NORM = "model.norm.weight"
NOT_PLAIN = "is not the plain name of a safetensors file in this folder"
ESCAPES = "leads out of the model folder"


def shard_of(folder: Path, tensor: str = NORM) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][tensor]


def outside(folder: Path) -> Path:
    return folder.parent / OUTSIDE


def mapped(change: Callable[[dict[str, Any], Path], Any]) -> Spoil:
    """Change the weight map; a value that is returned replaces it."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        made = change(content["weight_map"], folder)
        content["weight_map"] = content["weight_map"] if made is None else made
        (folder / INDEX).write_text(json.dumps(content))

    return spoil


def pointing(to: Any) -> Spoil:
    """The final norm's entry points elsewhere; {outside} is the folder of the weights not to reach."""

    def change(weight_map: dict[str, Any], folder: Path) -> None:
        name = shard_of(folder).name
        weight_map[NORM] = to.format(outside=outside(folder), name=name) if isinstance(to, str) else to

    return mapped(change)


def raw(content: bytes) -> Spoil:
    return lambda folder: (folder / INDEX).write_bytes(content) and None


def linked(target: str, name: str | None = None) -> Spoil:
    """The final norm's shard (or file `name`) becomes a link; {outside} and {name} as above."""

    def spoil(folder: Path) -> None:
        path = folder / name if name else shard_of(folder)
        text = target.format(outside=outside(folder), name=path.name)
        path.unlink(missing_ok=True)
        path.symlink_to(text)

    return spoil


def link_chain(folder: Path) -> None:
    name = shard_of(folder).name
    linked("a.safetensors")(folder)
    (folder / "a.safetensors").symlink_to(f"b/{name}")
    (folder / "b").symlink_to(f"../{OUTSIDE}")


def index_links_out(folder: Path) -> None:
    shutil.copy(folder / INDEX, outside(folder) / INDEX)
    linked("{outside}/{name}", INDEX)(folder)


def huge(folder: Path) -> None:
    with (folder / INDEX).open("wb") as file:
        file.truncate(10 * 2**30)


def replaced(make: Callable[[Path], object]) -> Spoil:
    """The final norm's shard is gone, and `make` puts something else in its place."""

    def spoil(folder: Path) -> None:
        path = shard_of(folder)
        path.unlink()
        make(path)

    return spoil


def second_copy(folder: Path) -> None:
    """The final norm in two shards."""
    save_file({NORM: load_file(shard_of(folder))[NORM]}, folder / "extra.safetensors")
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"]["model.extra.weight"] = "extra.safetensors"
    (folder / INDEX).write_text(json.dumps(content))


def swapped(weight_map: dict[str, Any], folder: Path) -> None:
    other = next(name for name, file in weight_map.items() if file != weight_map[NORM])
    weight_map[NORM], weight_map[other] = weight_map[other], weight_map[NORM]


def shard_cut(folder: Path) -> None:
    path = shard_of(folder)
    path.write_bytes(path.read_bytes()[:-1])


DEEP = b'{"weight_map":' + b"[" * 1_000_000
MANY = json.dumps({"weight_map": {f"t{n}": f"{n}.safetensors" for n in range(90_000)}}).encode()
CASES: dict[str, tuple[Spoil, str]] = {
    "parent folder": (pointing(f"../{OUTSIDE}/{{name}}"), NOT_PLAIN),
    "absolute path": (pointing("{outside}/{name}"), NOT_PLAIN),
    "dot and parent": (pointing(f"./../{OUTSIDE}/{{name}}"), NOT_PLAIN),
    "down and up": (pointing(f"sub/../../{OUTSIDE}/{{name}}"), NOT_PLAIN),
    "subfolder": (pointing("sub/{name}"), NOT_PLAIN),
    "backslashes": (pointing(f"..\\{OUTSIDE}\\{{name}}"), NOT_PLAIN),
    "home folder": (pointing("~/{name}"), NOT_PLAIN),
    "variable": (pointing("$HOME/{name}"), NOT_PLAIN),
    "file URL": (pointing("file://{outside}/{name}"), NOT_PLAIN),
    "web URL": (pointing("https://example.invalid/{name}"), NOT_PLAIN),
    "NUL in the name": (pointing("{name}\0.txt"), NOT_PLAIN),
    "newline in the name": (pointing("{name}\n"), NOT_PLAIN),
    "foreign letters": (pointing("mödel.safetensors"), NOT_PLAIN),
    "hidden file": (pointing(".{name}"), NOT_PLAIN),
    "a pickle's name": (pointing("pytorch_model.bin"), NOT_PLAIN),
    "empty name": (pointing(""), NOT_PLAIN),
    "dots": (pointing(".."), NOT_PLAIN),
    "null": (pointing(None), NOT_PLAIN),
    "a number": (pointing(3), NOT_PLAIN),
    "a list": (pointing(["model.safetensors"]), NOT_PLAIN),
    "shard links out": (linked("{outside}/{name}"), ESCAPES),
    "shard links out by steps": (link_chain, ESCAPES),
    "shard links to a device": (linked("/dev/zero"), "out of the model folder, to /dev/zero"),
    "shard links to nothing": (linked("gone.safetensors"), "the file is missing"),
    "shard links to itself": (linked("{name}"), "safetensors"),
    "single file links out": (linked(f"../{OUTSIDE}/{SINGLE}", SINGLE), ESCAPES),
    "index links out": (index_links_out, ESCAPES),
    "shard missing": (replaced(lambda path: None), "the file is missing"),
    "shard a folder": (replaced(Path.mkdir), "not a regular file"),
    "shard a pipe": (replaced(os.mkfifo), "not a regular file"),
    "shard cut": (shard_cut, "the file holds"),
    "index empty": (raw(b""), "not sound JSON"),
    "index not JSON": (raw(b"{'weight_map': {}}"), "not sound JSON"),
    "index binary": (raw(b"\xff\xfe\x00"), "not sound JSON"),
    "index a list": (raw(b"[]"), "'weight_map'"),
    "index a million deep": (raw(DEEP), "nested too deeply"),
    "index of 10 GiB": (huge, "this is no index of a model"),
    "index of 90,000 files": (raw(MANY), "the file is missing"),
    "no weight map": (raw(b'{"metadata": {}}'), "'weight_map'"),
    "empty map": (mapped(lambda weight_map, _: {}), "'weight_map'"),
    "map a list": (mapped(lambda weight_map, _: list(weight_map)), "'weight_map'"),
    "tensor named twice": (raw(b'{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}'), "'a' comes twice"),
    "tensor promised that is not there": (
        mapped(lambda weight_map, folder: {**weight_map, "ghost": shard_of(folder).name}),
        "lacks 1 tensor(s) that the index puts there, such as 'ghost'",
    ),
    "tensor left out": (mapped(lambda weight_map, _: weight_map.pop(NORM) and None), "the index does not name it"),
    "tensor in two shards": (second_copy, f"'{NORM}'"),
    "tensors swapped": (mapped(swapped), "but the index puts it into"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_hostile_index_is_refused(
    watched: WatchedProcess, sharded_folder: Path, tmp_path: Path, case: str
) -> None:
    shutil.copytree(sharded_folder, tmp_path / OUTSIDE)
    spoil, reason = CASES[case]
    watched.load_spoilt(sharded_folder, spoil, tmp_path).assert_refused(reason)


def cache_of_the_hub(base: Path, root: Path, repository: str) -> Path:
    """The cache is links from snapshots/<commit>/ to the blobs of the same repository."""
    blobs, snapshot = root / repository / "blobs", root / repository / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(base.iterdir())):
        shutil.copy(file, blobs / f"{number:040d}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number:040d}")
    return snapshot


class TestLinksThatAreFine:
    def test_cache_of_the_hub(self, sharded_folder: Path, tmp_path: Path) -> None:
        from glm_train import GlmForCausalLM

        snapshot = cache_of_the_hub(sharded_folder, tmp_path, "models--zai-org--tiny")
        assert GlmForCausalLM.from_pretrained(snapshot).model.norm.weight.eq(1).all()

    def test_a_link_to_the_folder_itself_is_the_users_choice(
        self, sharded_folder: Path, tmp_path: Path
    ) -> None:
        from glm_train import GlmForCausalLM

        (tmp_path / "link").symlink_to(sharded_folder)
        GlmForCausalLM.from_pretrained(tmp_path / "link")


def test_cache_of_another_repository_is_outside(sharded_folder: Path, tmp_path: Path) -> None:
    from glm_train import GlmForCausalLM
    from glm_train.errors import CheckpointError

    mine = cache_of_the_hub(sharded_folder, tmp_path, "mine")
    other = cache_of_the_hub(sharded_folder, tmp_path, "other")
    shard = mine / shard_of(mine).name
    shard.unlink()
    shard.symlink_to(f"../../../other/blobs/{(other / shard.name).readlink().name}")
    with pytest.raises(CheckpointError, match=ESCAPES):
        GlmForCausalLM.from_pretrained(mine)
