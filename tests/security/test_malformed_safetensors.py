"""Malformed safetensors files: the public `from_pretrained` refuses each by name, fast and in little memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.refusals import Spoil, WatchedProcess

FILE = "model.safetensors"
NORM = "model.norm.weight"


def parts(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of the folder's weights."""
    content = (folder / FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(folder: Path, header: object, data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    (folder / FILE).write_bytes(size.to_bytes(8, "little") + text + data)


def whole(change: Callable[[bytes], bytes]) -> Spoil:
    """Change the file as bytes."""

    def spoil(folder: Path) -> None:
        (folder / FILE).write_bytes(change((folder / FILE).read_bytes()))

    return spoil


def text(old: str, new: str) -> Spoil:
    """Change the header as text; its length is told as it then is."""

    def spoil(folder: Path) -> None:
        header, data = parts(folder)
        before = json.dumps(header)
        assert old in before
        write(folder, before.replace(old, new, 1).encode(), data)

    return spoil


def header(made: bytes, length: int | None = None) -> Spoil:
    """Another header before the same data."""
    return lambda folder: write(folder, made, parts(folder)[1], length)


def entry(**changes: Any) -> Spoil:
    """Other values in the final norm's entry."""

    def spoil(folder: Path) -> None:
        found, data = parts(folder)
        found[NORM] |= changes
        write(folder, found, data)

    return spoil


def shifted(by: int) -> Spoil:
    """The final norm's tensor moved: into its neighbour, or away from it."""

    def spoil(folder: Path) -> None:
        found, data = parts(folder)
        found[NORM]["data_offsets"] = [at + by for at in found[NORM]["data_offsets"]]
        write(folder, found, data + bytes(max(0, min(by, 64))))

    return spoil


def sparse_header(folder: Path) -> None:
    """A header of 200 MiB that is really there, and takes no room on the disk."""
    with (folder / FILE).open("wb") as file:
        file.write((200 * 2**20).to_bytes(8, "little"))
        file.truncate(300 * 2**20)


def renamed(folder: Path) -> None:
    found, data = parts(folder)
    found["model.norm.scale"] = found.pop(NORM)
    write(folder, found, data)


def terabytes(folder: Path) -> None:
    """4 TiB of tensor claimed by 100 bytes of file."""
    side = 2**40
    write(folder, {NORM: {"dtype": "F32", "shape": [side], "data_offsets": [0, 4 * side]}}, b"")


def twice(name: str) -> Spoil:
    """The same key again, at the end of the header."""

    def spoil(folder: Path) -> None:
        found, data = parts(folder)
        again = f', "{name}": {json.dumps(found[name])}}}'
        write(folder, (json.dumps(found)[:-1] + again).encode(), data)

    return spoil


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
CASES: dict[str, tuple[Spoil, str]] = {
    "empty file": (whole(lambda _: b""), "0 bytes, too short"),
    "seven bytes": (whole(lambda content: content[:7]), "7 bytes, too short"),
    "cut in the header": (whole(lambda content: content[:100]), "100 bytes, too short"),
    "cut in half": (whole(lambda content: content[: len(content) // 2]), "the file holds"),
    "last byte lost": (whole(lambda content: content[:-1]), "the file holds"),
    "byte too many": (whole(lambda content: content + b"\0"), "the file holds"),
    "git lfs pointer": (whole(lambda _: LFS), "git lfs pull"),
    "web page": (whole(lambda _: b"<!DOCTYPE html>" * 100), "too short for its safetensors header"),
    "compressed": (whole(lambda content: gzip.compress(content)), "too short for its safetensors header"),
    "header of 2**63 bytes": (header(b"{}", 2**63), "too short for its safetensors header"),
    "header of 0 bytes": (header(b"", 0), "not sound JSON"),
    "header of 200 MiB": (sparse_header, "claims a header of 209715200 bytes"),
    "4 TiB of tensor": (terabytes, "the file holds 0"),
    "header not JSON": (header(b"{'a': 1}"), "not sound JSON"),
    "header not UTF-8": (header(b'{"\xff": 1}'), "not sound JSON"),
    "header a list": (header(b"[]"), "not an object"),
    "header a million deep": (header(b'{"a":' * 500_000), "not sound JSON"),
    "header of empty entries": (header(b"{" + b",".join(b'"%d":{}' % n for n in range(150_000)) + b"}"), "'0'"),
    "number of 5000 digits": (header(b'{"a": ' + b"9" * 5000 + b"}"), "not sound JSON"),
    "metadata a number": (text('"__metadata__": {"format": "pt"}', '"__metadata__": 3'), "model.safetensors"),
    "metadata of numbers": (text('"format": "pt"', '"format": 3'), "model.safetensors"),
    "tensor without a name": (text(f'"{NORM}"', '""'), "not in the model (1): "),
    "tensor twice": (twice(NORM), f"'{NORM}' comes twice"),
    "dtype twice": (text('"dtype": "F32"', '"dtype": "F32", "dtype": "F32"'), "'dtype' comes twice"),
    "NaN in a shape": (text('"shape": [', '"shape": [NaN, '), "NaN is not a number"),
    "infinite offset": (text('"data_offsets": [0', '"data_offsets": [-Infinity'), "-Infinity is not a number"),
    "entry a number": (text(f'"{NORM}": {{', f'"x": 3, "{NORM}": {{'), "'x': expected dtype"),
    "unknown key": (entry(pickle="gASVAAAAAA=="), f"'{NORM}': expected dtype"),
    "unknown dtype": (entry(dtype="O"), "dtype 'O'"),
    "dtype a list": (entry(dtype=["F32"]), "dtype ['F32']"),
    "narrower dtype": (entry(dtype="BF16"), "takes 32 bytes, the header gives it 64"),
    "negative shape": (entry(shape=[-16]), "not sizes"),
    "shape of fractions": (entry(shape=[16.0]), "not sizes"),
    "shape over 2**48": (entry(shape=[2**60, 0]), "not sizes"),
    "shape overflows 64 bits": (entry(shape=[2**40, 2**40]), "the header gives it 64"),
    "shape too large": (entry(shape=[17]), "takes 68 bytes"),
    "offsets backwards": (entry(data_offsets=[64, 0]), "takes 64 bytes"),
    "three offsets": (entry(data_offsets=[0, 64, 64]), "not sizes"),
    "offsets past the end": (shifted(10**9), "expected"),
    "overlap": (shifted(-4), "starts at byte"),
    "gap": (shifted(4), "starts at byte"),
    "other shape than the model's": (entry(shape=[4, 4]), "is [4, 4], the model needs [16]"),
    "whole numbers for weights": (entry(dtype="I32"), f"{NORM} is torch.int32"),
    "tensor renamed": (renamed, "missing in the folder (1): model.norm.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_malformed_file_is_refused(
    watched: WatchedProcess, sound_folder: Path, tmp_path: Path, case: str
) -> None:
    spoil, reason = CASES[case]
    watched.load_spoilt(sound_folder, spoil, tmp_path).assert_refused(reason)
