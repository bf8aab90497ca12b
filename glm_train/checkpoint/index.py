"""Which tensors a model folder holds, and where: read and checked before any of them is loaded.

A folder comes from anywhere, so nothing in it is believed: `weight_map` of an index can name files outside
the folder, a shard can lack what the index promises, a header can claim more than the disk holds. Each of
these is refused here, by name, at the cost of reading a few kilobytes.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_train.checkpoint.chatglm import is_original, to_hugging_face
from glm_train.checkpoint.safetensors_file import (
    MAX_HEADER_BYTES,
    StoredTensor,
    read_header,
    strict_json,
)
from glm_train.errors import CheckpointError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.npy", "*.npz", "*.joblib", "*.distcp")
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors", re.ASCII)


@dataclass(frozen=True)
class TensorIndex:
    """The tensors of a model folder by name."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    @property
    def files(self) -> list[Path]:
        """The weight files, each once, in the order of their names."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def read_index(folder: str | Path) -> TensorIndex:
    """The tensors of a model folder: file, dtype and shape of each. No tensor data is read.

    The tensors of the original release (`transformer.*`) come under Hugging Face's names too.
    Raises `CheckpointError` naming the file, and the tensor where there is one, with the cure.
    """
    folder = Path(folder)
    tensors = read_stored(folder)
    return TensorIndex(folder, to_hugging_face(folder, tensors) if is_original(tensors) else tensors)


def read_stored(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a model folder under the names that they are stored under.

    Where both `model.safetensors` and an index lie in the folder, the single file counts, as in transformers.
    Raises `CheckpointError`.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    if _exists(folder / SINGLE_NAME):
        return read_header(file_inside(folder, SINGLE_NAME))
    if _exists(folder / INDEX_NAME):
        return _read_shards(folder, _read_weight_map(folder))
    raise CheckpointError(_nothing_to_read(folder))


def _exists(path: Path) -> bool:
    """True for a dangling link too: what is named there is meant, and its absence is reported."""
    return path.is_symlink() or path.exists()


def _nothing_to_read(folder: Path) -> str:
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder}: weights only as pickles ({', '.join(pickles[:3])}), which are never read because "
            "they can run code. Use the model's safetensors revision, or convert it in a place you "
            "trust: with transformers, from_pretrained(...) and then save_pretrained(...) write safetensors."
        )
    if list(folder.glob("adapter_model.safetensors")):
        return f"{folder}: an adapter, not a model; merge it into its base model first"
    return (
        f"{folder}: neither {SINGLE_NAME} nor {INDEX_NAME}. A model folder holds config.json and "
        "safetensors files; a model that the hub has only as pickles is not downloaded."
    )


def _read_weight_map(folder: Path) -> dict[str, str]:
    """The index: tensor name -> file name of its shard, each the plain name of a safetensors file."""
    path = _inside(folder, INDEX_NAME)
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: larger than {MAX_HEADER_BYTES} bytes; this is no index of a model"
            )
        content: Any = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not sound JSON: {error}. Copy or download it again.") from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path}: expected an object with a 'weight_map' that names a file for each tensor"
        )
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _SHARD_NAME.fullmatch(name):
            raise CheckpointError(
                f"{path}: tensor {tensor!r}: {name!r} is not the plain name of a safetensors file in this "
                "folder. An index that points elsewhere is not followed; get the model from a source you "
                "trust."
            )
    return weight_map


def _read_shards(folder: Path, weight_map: dict[str, str]) -> dict[str, StoredTensor]:
    """The headers of all shards, which must hold exactly what the index says."""
    found: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        for name, tensor in read_header(file_inside(folder, shard)).items():
            if name in found:
                raise CheckpointError(
                    f"{folder}: tensor {name!r} lies in two shards, {found[name].file.name} and {shard}. "
                    "Shards of two models are mixed here; download the model again."
                )
            if weight_map.get(name) != shard:
                promised = weight_map.get(name)
                says = f"the index puts it into {promised}" if promised else "the index does not name it"
                raise CheckpointError(
                    f"{folder / shard}: holds tensor {name!r}, but {says}. "
                    "Index and shards do not belong together; download the model again."
                )
            found[name] = tensor
    missing = [name for name in weight_map if name not in found]
    if missing:
        raise CheckpointError(
            f"{folder / weight_map[missing[0]]}: lacks {len(missing)} tensor(s) that the index puts "
            f"there, such as {missing[0]!r}. Index and shards do not belong together; download the model "
            "again."
        )
    return found


def file_inside(folder: Path, name: str) -> Path:
    """The regular file `name` of a model folder. Raises `CheckpointError`: missing, something else, or a link that
    leads out of the model."""
    path = _inside(folder, name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: not a regular file")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: the file is missing; the model was not copied completely") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    return path


def _inside(folder: Path, name: str) -> Path:
    """`folder / name`, which must not be a link that leads out of the model.

    The Hugging Face cache is built of links, from `<repository>/snapshots/<commit>/` to
    `<repository>/blobs/`; there the blobs of the same repository count as inside.
    """
    path = folder / name
    home = folder.resolve()
    allowed = [home]
    if home.parent.name == "snapshots":
        allowed.append(home.parent.parent / "blobs")
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        raise CheckpointError(f"{path}: a link that leads in a circle") from None
    if not any(target.is_relative_to(place) for place in allowed):
        raise CheckpointError(
            f"{path}: a link that leads out of the model folder, to {target}. It is not followed; "
            "put the file itself into the folder, or give the folder that holds it."
        )
    return path
