"""A model folder rewritten in the other layout, and the proof that it is the same model.

It is written under another name, compared with its source, and only then given the name that the user asked for:
whatever happens, no half model and no wrong one lies there. One tensor at a time is in memory; the comparison holds
the embedding, the head and one layer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_train.bar import Progress, silent
from glm_train.checkpoint import chatglm
from glm_train.checkpoint.disk import disk_errors, write_text
from glm_train.checkpoint.index import TensorIndex, file_inside, read_index, read_stored
from glm_train.checkpoint.new_folder import free_place, published
from glm_train.checkpoint.pretrained import GlmForSequenceClassification
from glm_train.checkpoint.safetensors_file import Deferred, StoredTensor
from glm_train.checkpoint.same_model import Comparison, compare, model_class
from glm_train.checkpoint.sizes import check_sizes
from glm_train.checkpoint.weights import (
    MAX_SHARD_BYTES,
    fitting_slots,
    read_tensor,
    save_weights,
)
from glm_train.errors import CheckpointError, ConfigError, nearest
from glm_train.hub import TEMPLATE_FOLDER, resolve_folder
from glm_train.model import chatglm_config
from glm_train.model.config import CONFIG_NAME, GlmConfig
from glm_train.model.config_faults import DTYPES
from glm_train.model.presets import suspicious_theta

LAYOUTS = ("hf", "chatglm")
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE*",
    f"{TEMPLATE_FOLDER}/*.jinja",
)
# Says, in a Hugging Face config.json, that the original it came from held no table of inverse frequencies.
_NO_TABLE = "chatglm_without_inv_freq"


@dataclass(frozen=True)
class Conversion:
    """What was written, and how it compares with its source."""

    layout: str
    tensors: int
    size: int  # bytes of all tensors
    files: int
    config: GlmConfig
    copied: list[str]
    made: list[str]  # from tokenizer.model
    comparison: Comparison


@dataclass(frozen=True)
class _Source:
    """A model folder that was found sound: every tensor has its place in a GLM."""

    folder: Path
    original: bool
    index: TensorIndex
    config: GlmConfig
    kind: type
    holds_table: bool


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    rope_theta: float | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    warn: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> Conversion:
    """Write the model of `source` (a folder or hub id) to the new folder `out` in layout `to`: `hf`, or `chatglm`,
    the original release's; None means the other one than the source's.

    `rope_theta` replaces the base of the rotary angles and `dtype` the weights' (float32, bfloat16, float16). Files
    of the tokenizer and generation_config.json are copied. Afterwards both folders are read, all tensors are compared
    bit for bit and both models run on the same tokens. `warn` gets each warning once; `progress(what, done, total)`
    is called often.

    Raises `CheckpointError` and `ConfigError` for what cannot be converted, before anything is written, and
    `CheckFailed` where the two models differ; `out` is then not there.
    """
    folder = resolve_folder(source)
    place = free_place(Path(out), folder)
    found, wanted = _open(folder), _files_to_copy(folder)
    target = _target(found, to, changed=rope_theta is not None or dtype is not None)
    config = _new_config(found, rope_theta, dtype)
    values = config.to_dict() if target == "hf" else chatglm_config.from_hugging_face(config)
    if target == "chatglm":
        values.pop(_NO_TABLE, None)
    if warning := suspicious_theta(config):
        warn(f"{warning} To write it into the new folder, give --rope-theta.")
    with torch.no_grad(), published(place) as part:
        state = _state(found, config, target, None if dtype is None else getattr(torch, dtype))
        size = sum(tensor.nbytes for tensor in state.values())
        save_weights(_counted(state, size, progress), part, max_shard_bytes=max_shard_bytes)
        with disk_errors(place, size, "the model's configuration"):
            write_text(
                part / CONFIG_NAME, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            )
            copied = _copy_files(wanted, part)
        made = _make_tokenizer_json(folder, part, copied, warn) if target == "hf" else []
        files = len(read_index(part).files)
        comparison = compare(found.index, config, part, progress)
    copied = [name for name in copied if name not in made]
    return Conversion(target, len(state), size, files, config, copied, made, comparison)


def _open(folder: Path) -> _Source:
    stored = read_stored(folder)
    index, config = read_index(folder), GlmConfig.from_pretrained(folder)
    check_sizes(config, index)
    kind = model_class(config, index)
    with torch.device("meta"):
        fitting_slots(kind(config), index)
    return _Source(
        folder, chatglm.is_original(stored), index, config, kind, chatglm.INVERSE_FREQUENCIES in stored
    )


def _target(found: _Source, to: str | None, *, changed: bool) -> str:
    if to is not None and to not in LAYOUTS:
        raise ConfigError(f"--to {to}: expected {' or '.join(LAYOUTS)}.{nearest(to, LAYOUTS)}")
    present, other = ("chatglm", "hf") if found.original else ("hf", "chatglm")
    if to == present and not changed:
        raise ConfigError(
            f"{found.folder} is in the layout {to} already. Leave --to out to get the other one, or change something "
            "with --rope-theta or --dtype."
        )
    return to or other


def _new_config(found: _Source, rope_theta: float | None, dtype: str | None) -> GlmConfig:
    """The configuration of what will be written, in Hugging Face's terms."""
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}.{nearest(dtype, DTYPES)}")
    name = found.kind.__name__
    changes: dict[str, Any] = {"architectures": [name]}
    if found.config.hidden_act == "swish":  # another name, which the original does not know
        changes["hidden_act"] = "silu"
    if found.config.model_type == "glm4":
        changes["architectures"] = [name.replace("Glm", "Glm4", 1)]
    if rope_theta is not None:
        changes["rope_theta"] = rope_theta
    if dtype is not None:
        changes["dtype"] = dtype
    config = found.config.with_changes(**changes)
    if found.original and not found.holds_table:
        config.extra[_NO_TABLE] = True
    return config


def _state(
    found: _Source, config: GlmConfig, target: str, dtype: torch.dtype | None
) -> dict[str, Tensor | Deferred]:
    """All tensors of the new folder under their names there, none of them read yet."""
    tensors = _kept(found)
    if target == "hf":
        return {name: _deferred((stored,), dtype) for name, stored in tensors.items()}
    joined = chatglm.to_original(found.folder, tensors, tied=config.tie_word_embeddings)
    state: dict[str, Tensor | Deferred] = {name: _deferred(parts, dtype) for name, parts in joined.items()}
    kind = next(iter(state.values())).dtype
    if found.kind is GlmForSequenceClassification:  # the original's head has a bias
        state.setdefault("classifier_head.bias", torch.zeros(config.num_labels, dtype=kind))
    if not config.extra.get(_NO_TABLE):
        state[chatglm.INVERSE_FREQUENCIES] = _original_table(config, kind)
    return state


def _kept(found: _Source) -> dict[str, StoredTensor]:
    """The source's tensors under Hugging Face's names and in their order, without what follows from others: a tied
    head, a bias of zeros that the head has no place for, tables of inverse frequencies."""
    tensors = {name: t for name, t in found.index.tensors.items() if not name.endswith("inv_freq")}
    if found.config.tie_word_embeddings and any(name.endswith("embed_tokens.weight") for name in tensors):
        tensors.pop("lm_head.weight", None)
    if found.kind is GlmForSequenceClassification:
        tensors.pop("score.bias", None)  # found to be zero when the source was opened
    return chatglm.in_our_order(tensors)


def _deferred(parts: tuple[StoredTensor, ...], dtype: torch.dtype | None) -> Deferred:
    """The parts' rows below each other, in `dtype` (None: as stored)."""
    first = parts[0]
    shape = first.shape if len(parts) == 1 else (sum(part.shape[0] for part in parts), *first.shape[1:])
    kind = dtype or first.dtype

    def make() -> Tensor:
        rows = [read_tensor(part) for part in parts]
        return (rows[0] if len(rows) == 1 else torch.cat(rows)).to(kind)

    return Deferred(kind, shape, make)


def _original_table(config: GlmConfig, dtype: torch.dtype) -> Tensor:
    """The table that the original's module stores, computed as its code does: in the weights' dtype and without
    rope_ratio. The code reads its dtype only."""
    rotary = config.head_dim // 2
    return 1.0 / (chatglm_config.THETA ** (torch.arange(0, rotary, 2).to(dtype) / rotary))


def _counted(
    state: dict[str, Tensor | Deferred], size: int, progress: Progress
) -> dict[str, Tensor | Deferred]:
    """The same tensors, of which each reports when it is made."""
    done = 0

    def count(tensor: Deferred) -> Tensor:
        nonlocal done
        progress("writing", done, size)
        done += tensor.nbytes
        return tensor.make()

    return {
        name: Deferred(tensor.dtype, tensor.shape, lambda tensor=tensor: count(tensor))  # type: ignore[misc]
        if isinstance(tensor, Deferred)
        else tensor
        for name, tensor in state.items()
    }


def _files_to_copy(folder: Path) -> dict[str, Path]:
    """The files that belong to both layouts. A link that leads out of the model is refused, and what is no file."""
    names = sorted({str(path.relative_to(folder)) for pattern in _COPIED for path in folder.glob(pattern)})
    return {name: file_inside(folder, name) for name in names}


def _copy_files(wanted: dict[str, Path], part: Path) -> list[str]:
    for name, path in wanted.items():
        (part / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, part / name)
    return list(wanted)


def _make_tokenizer_json(
    folder: Path, part: Path, copied: list[str], warn: Callable[[str], None]
) -> list[str]:
    """Give a Hugging Face folder the tokenizer.json that an original has not, made from its tokenizer.model. Returns
    the names of the files that it made or changed."""
    from glm_train.text.tokenizer import GlmTokenizer

    if "tokenizer.model" not in copied or "tokenizer.json" in copied:
        return []
    try:
        GlmTokenizer.from_pretrained(folder).save_pretrained(part)
    except CheckpointError as error:
        warn(f"tokenizer.model is copied as it is, but no tokenizer.json could be made from it: {error}")
        return []
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    return [name for name in names if _bytes(part / name) not in (None, _bytes(folder / name))]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
