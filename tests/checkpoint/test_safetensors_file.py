"""One safetensors file: our bytes are the library's, and no header is believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_train.checkpoint.safetensors_file import (
    MAX_HEADER_BYTES,
    read_header,
    stored_bytes,
    strict_json,
    write_tensors,
)
from glm_train.errors import CheckpointError

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.float8_e5m2, torch.float8_e4m3fn, torch.int16, torch.uint16,
    torch.float16, torch.bfloat16, torch.int32, torch.uint32, torch.float32, torch.complex64, torch.float64,
    torch.int64, torch.uint64,
]  # fmt: skip


def test_bytes_and_hash_equal_the_librarys(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"{n % 3}.é{n}": torch.randint(0, 2, (2, 3)).to(dtype) for n, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.zeros(0, 4), "big": torch.randn(3000, 1000)}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    written = write_tensors(tmp_path / "ours", tensors, {"format": "pt"})
    ours = (tmp_path / "ours").read_bytes()
    assert ours == (tmp_path / "theirs").read_bytes()
    assert written.size == len(ours) == stored_bytes(tensors)
    assert written.sha256 == hashlib.sha256(ours).hexdigest()


def test_strided_and_shared_tensors_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {
        "turned": base.t(),
        "strided": base[:, ::2],
        "again": base,
        "expanded": torch.ones(1).expand(5),
    }
    write_tensors(tmp_path / "file", tensors)
    loaded = load_file(tmp_path / "file")
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_header_gives_shape_and_dtype_without_reading_data(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.tensor(1)})
    header = read_header(tmp_path / "file")
    assert (header["a"].shape, header["a"].dtype) == ((2, 3), torch.bfloat16)
    assert (header["b"].shape, header["b"].dtype) == ((), torch.int64)


def test_an_existing_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_tensors(tmp_path / "file", {"a": torch.zeros(1)})
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": torch.zeros(2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
        {"a": 3},
        {"__metadata__": torch.ones(1)},
    ],
)
def test_what_the_format_cannot_hold(tmp_path: Path, tensors: dict) -> None:
    with pytest.raises(TypeError):
        write_tensors(tmp_path / "file", tensors)
    assert not (tmp_path / "file").exists()


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "file", {"a": torch.zeros(1)})
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, "{", ""]
)
def test_strict_json_refuses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  the decoder's own message
        strict_json(text)


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**changes: object) -> dict[str, object]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def two(second: list[int]) -> dict[str, object]:
    return {**one(), "u": {"dtype": "F32", "shape": [2], "data_offsets": second}}


EIGHT = bytes(8)
MALFORMED = {
    "empty file": (b"", "too short"),
    "seven bytes": (b"1234567", "too short"),
    "header of 2**63 bytes": (raw(b"{}", length=2**63), "too short"),
    "header longer than file": (raw(one(), length=500), "too short"),
    "header over the limit": (raw(b" " * (MAX_HEADER_BYTES + 1)), "at most"),
    "git lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "git lfs pull",
    ),
    "not json": (raw(b"{'t': 1}"), "not sound JSON"),
    "not utf-8": (raw(b'{"\xff": 1}'), "not sound JSON"),
    "a list": (raw([1]), "not an object"),
    "deep nesting": (raw(b"[" * 200_000), "not sound JSON"),
    "name twice": (raw(b'{"t": 1, "t": 2}'), "comes twice"),
    "entry is a number": (raw({"t": 3}), "'t': expected dtype"),
    "unknown key": (raw(one(extra=1), EIGHT), "'t': expected dtype"),
    "unknown dtype": (raw(one(dtype="F33"), EIGHT), "dtype 'F33'"),
    "dtype is a list": (raw(one(dtype=["F32"]), EIGHT), "dtype"),
    "negative shape": (raw(one(shape=[-2]), EIGHT), "not sizes"),
    "shape of booleans": (raw(one(shape=[True, 2]), EIGHT), "not sizes"),
    "shape of 2**60": (raw(one(shape=[2**60, 0], data_offsets=[0, 0])), "not sizes"),
    "huge integer": (raw(b'{"t": ' + b"9" * 5000 + b"}"), "not sound JSON"),
    "three offsets": (raw(one(data_offsets=[0, 4, 8]), EIGHT), "not sizes"),
    "offsets backwards": (raw(one(data_offsets=[8, 0]), EIGHT), "takes 8 bytes"),
    "shape too large": (raw(one(shape=[2000]), EIGHT), "takes 8000 bytes"),
    "dtype too wide": (raw(one(dtype="F64"), EIGHT), "takes 16 bytes"),
    "overlap": (raw(two([4, 12]), bytes(12)), "starts at byte 4, expected 8"),
    "gap": (raw(two([16, 24]), bytes(24)), "starts at byte 16, expected 8"),
    "truncated data": (raw(one(), bytes(7)), "the file holds 7"),
    "data left over": (raw(one(), bytes(9)), "the file holds 9"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_header_is_refused_by_name(tmp_path: Path, case: str) -> None:
    content, reason = MALFORMED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_header(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors: cannot be read: No such file"):
        read_header(tmp_path / "none.safetensors")
