"""Small folders that ask for much: each is refused within two seconds and 512 MiB (the helper measures both).

More of them are beside what they belong to: headers and shapes in `test_malformed_safetensors`, indexes in
`test_hostile_indexes`, texts, pipes and devices in `test_hostile_configs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.refusals import Spoil, WatchedProcess

FILE, CONFIG = "model.safetensors", "config.json"


def header_of(folder: Path) -> dict[str, Any]:
    with (folder / FILE).open("rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def write(folder: Path, header: dict[str, Any], data_bytes: int) -> None:
    """A file of this header and of zeros that take no room on the disk."""
    text = json.dumps(header, separators=(",", ":")).encode()
    with (folder / FILE).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + data_bytes)


def set_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | changes))


def empty_tensors(folder: Path) -> None:
    """Sound entries, none of which takes a byte of data."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    write(folder, {str(n): empty for n in range(40_000)}, 0)


def layers(folder: Path, count: int, stored: range) -> None:
    """A model of `count` layers whose shapes are right, with `stored` of them in the file."""
    found = header_of(folder)
    found.pop("__metadata__")
    layer = {n.split(".", 3)[3]: e for n, e in found.items() if n.startswith("model.layers.0.")}
    entries = {n: e for n, e in found.items() if not n.startswith("model.layers.")}
    entries |= {f"model.layers.{n}.{name}": dict(e) for n in stored for name, e in layer.items()}
    at = 0
    for entry in entries.values():
        size = entry["data_offsets"][1] - entry["data_offsets"][0]
        entry["data_offsets"] = [at, at + size]
        at += size
    write(folder, entries, at)
    set_config(folder, num_hidden_layers=count)


def terabyte_model(folder: Path) -> None:
    """A model of 1 TiB that is sound in every way, and takes no room on the disk."""
    rows = 2**34
    found, at = header_of(folder), 0
    found.pop("__metadata__")
    for name, entry in found.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            entry["shape"][0] = rows
        size = 4 * entry["shape"][0] * (entry["shape"][1] if len(entry["shape"]) > 1 else 1)
        entry["data_offsets"] = [at, at + size]
        at += size
    write(folder, found, at)
    set_config(folder, vocab_size=rows)


def labels(count: int) -> Spoil:
    return lambda folder: set_config(folder, id2label={str(n): f"L{n}" for n in range(count)})


def stop_ids(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1] * 1_000_000}))


BOMBS: dict[str, tuple[Spoil, str]] = {
    "40,000 empty tensors": (empty_tensors, "the weights hold 0 layers"),
    "3,000 layers": (
        lambda folder: layers(folder, 3000, range(3000)),
        "num_hidden_layers is 3000; at most 1024",
    ),
    "10 million layers, 2 stored": (lambda folder: layers(folder, 10**7, range(2)), "hold 2 layers"),
    "1,024 layers, none the first": (lambda folder: layers(folder, 1024, range(5, 1029)), "no layers.0."),
    "1 TiB of weights": (terabyte_model, "the model takes 2,199.0 GB"),
    "a million labels": (lambda folder: set_config(folder, num_labels=10**6 + 1), "num_labels"),
}
LARGE: dict[str, Spoil] = {"100,000 labels": labels(100_000), "a million stop ids": stop_ids}


@pytest.mark.parametrize("case", BOMBS)
def test_bomb_is_refused(watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str) -> None:
    spoil, reason = BOMBS[case]
    watched.load_spoilt(sound_folder, spoil, tmp_path).assert_refused(reason)


@pytest.mark.parametrize("case", LARGE)
def test_what_is_only_large_loads_as_fast(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    watched.load_spoilt(sound_folder, LARGE[case], tmp_path).assert_loaded()
