"""One safetensors file: its header is checked before anything is allocated, its data is written as a stream.

The format (as the safetensors library defines it):

    8 bytes   length of the header, little-endian
    header    JSON {"__metadata__": {..}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..}
              filled up with spaces to a multiple of 8
    rest      the tensors' bytes, end to end, without gaps

Tensor data is read by the library itself (`safe_open`, memory mapped). Writing is our own, because a
checkpoint needs what the library's `save_file` does not do: one tensor at a time from whatever device, the
hash made on the way, and the disk's errors with their number. The bytes are the same as the library's; a
test compares them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_train.errors import CheckpointError

# In the library's own order of dtypes; a file holds them from the last to the first.
_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_RANK = {name: rank for rank, name in enumerate(_DTYPES)}

# Room for 30,000 tensors; GLM-4-32B has 735. The library stops at 100 MB, whose parsed form takes gigabytes.
MAX_HEADER_BYTES = 4 * 2**20
_MAX_SIDE = 2**48
_PIECE = 8 * 2**20
_COPY_CURE = "The file is damaged or was not copied to its end; copy or download it again."


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies, and what it is. Nothing of its data has been read.

    `name` is its name in the file. `rows`, where given, are the first and the end row of the part that is meant:
    `shape` is then that part's.
    """

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    name: str = ""
    rows: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Deferred:
    """A tensor that is made when its turn to be written comes, and let go after it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize

    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class WrittenFile:
    """Size and SHA-256 (hex) of a file as it was handed to the disk."""

    size: int
    sha256: str


def strict_json(text: str) -> Any:
    """Parse JSON in which no key comes twice and no number is NaN or infinite. Raises ValueError."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} comes twice")
    return result


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number that JSON has")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file by name; their data is not read.

    Checked: the header's length against the file, its JSON, no name twice, known dtypes, that the tensors lie
    end to end and that shape and dtype account for every byte of the file.
    Raises `CheckpointError` naming file and tensor.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(8)
            length = int.from_bytes(first, "little")
            _check_length(path, first, length, size)
            header = strict_json(file.read(length).decode())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(
            f"{path}: the safetensors header is not sound JSON: {error}. {_COPY_CURE}"
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the safetensors header is not an object. {_COPY_CURE}")
    header.pop("__metadata__", None)
    places: list[tuple[int, int, str]] = []
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        dtype, shape, start, end = _check_entry(path, name, entry)
        tensors[name] = StoredTensor(path, dtype, shape, name)
        places.append((start, end, name))
    _check_places(path, places, size - 8 - length)
    return tensors


def _check_length(path: Path, first: bytes, length: int, size: int) -> None:
    if first == b"version ":
        raise CheckpointError(
            f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in {path.parent}, or "
            "download the file"
        )
    if len(first) < 8 or length > size - 8:
        raise CheckpointError(f"{path}: {size} bytes, too short for its safetensors header. {_COPY_CURE}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{path}: claims a header of {length} bytes; at most {MAX_HEADER_BYTES} are read"
        )


def _check_entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """One header entry as (dtype, shape, start, end)."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{path}: tensor {name!r}: expected dtype, shape and data_offsets. {_COPY_CURE}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name!r}: dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{path}: tensor {name!r}: shape or data_offsets are not sizes. {_COPY_CURE}")
    needed = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise CheckpointError(
            f"{path}: tensor {name!r}: {dtype} {shape} takes {needed} bytes, "
            f"the header gives it {offsets[1] - offsets[0]}. {_COPY_CURE}"
        )
    return _DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v <= _MAX_SIDE for v in values)


def _check_places(path: Path, places: list[tuple[int, int, str]], data_bytes: int) -> None:
    """The tensors must fill the data part exactly: a gap or an overlap means a forged or damaged header."""
    at = 0
    for start, end, name in sorted(places):
        if start != at:
            raise CheckpointError(
                f"{path}: tensor {name!r} starts at byte {start}, expected {at}. {_COPY_CURE}"
            )
        at = end
    if at != data_bytes:
        raise CheckpointError(
            f"{path}: the header describes {at} bytes of tensors, the file holds {data_bytes}. {_COPY_CURE}"
        )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor | Deferred], metadata: Mapping[str, str] | None = None
) -> WrittenFile:
    """Write a new safetensors file and flush it to the disk; one tensor at a time passes through the CPU.

    Tensors may lie on any device, be strided, empty or without dimensions. Raises OSError (the caller knows
    what to say about a full disk), FileExistsError included; TypeError for a tensor that the format cannot
    hold.
    """
    names = _file_order(tensors)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in _pieces(_header(names, tensors, metadata), names, tensors):
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            del piece  # it keeps its tensor's memory
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(size, digest.hexdigest())


def stored_bytes(tensors: Mapping[str, Tensor | Deferred]) -> int:
    """The size in bytes that `write_tensors` will need, the header included."""
    names = _file_order(tensors)
    return len(_header(names, tensors, {"format": "pt"})) + sum(tensors[name].nbytes for name in names)


def _file_order(tensors: Mapping[str, Tensor | Deferred]) -> list[str]:
    """Widest dtype first, so that every tensor starts at a multiple of its item size; then by name."""
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__" or not isinstance(tensor, Tensor | Deferred):
            raise TypeError(f"{name!r}: expected a name and a tensor, found {type(tensor).__name__}")
        if isinstance(tensor, Deferred):
            continue
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided or tensor.device.type == "meta":
            raise TypeError(
                f"{name!r}: a safetensors file cannot hold {tensor.dtype}, {tensor.layout}, on "
                f"{tensor.device}"
            )
    return sorted(tensors, key=lambda name: (-_RANK[_NAMES[tensors[name].dtype]], name))


def _header(
    names: list[str], tensors: Mapping[str, Tensor | Deferred], metadata: Mapping[str, str] | None
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name in names:
        tensor = tensors[name]
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(
    header: bytes, names: list[str], tensors: Mapping[str, Tensor | Deferred]
) -> Iterator[bytes | memoryview]:
    """The file's bytes in order, in pieces small enough that the hash finds them still in the CPU's cache."""
    yield header
    for name in names:
        data = _raw(name, tensors[name])
        for at in range(0, len(data), _PIECE):
            yield data[at : at + _PIECE]
        del data  # before the next tensor is made


def _raw(name: str, tensor: Tensor | Deferred) -> memoryview:
    """The tensor's bytes in memory."""
    made = tensor.make() if isinstance(tensor, Deferred) else tensor.detach()
    if made.shape != tensor.shape or made.dtype != tensor.dtype:
        raise TypeError(f"{name!r}: expected {tensor.dtype} {list(tensor.shape)}, made {made.dtype}")
    return made.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data
