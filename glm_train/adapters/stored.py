"""The tensors of an adapter file, checked against the model they are for before it is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from glm_train.adapters.config_file import AdapterConfig
from glm_train.adapters.record import own_name
from glm_train.adapters.settings import LoraSettings
from glm_train.adapters.targets import CLASSIFIER, EMBEDDING, HEAD, TIED, is_tied
from glm_train.checkpoint.index import PICKLES, file_inside
from glm_train.checkpoint.safetensors_file import StoredTensor, read_header
from glm_train.checkpoint.weights import read_tensor
from glm_train.errors import CheckpointError, nearest
from glm_train.model.norm import GlmRMSNorm

_FACTORS = {".lora_A.default.weight": "A", ".lora_B.default.weight": "B"}
_LENGTHS = ".lora_magnitude_vector.default.weight"
_DELTA = ".trainable_tokens_delta"
_COPY = ".base_layer.weight"


@dataclass
class StoredAdapter:
    """An adapter that fits its model. `tensors` go by the names of the model's parameters once it is adapted."""

    settings: LoraSettings
    adapted: dict[str, tuple[int, float]] = field(default_factory=dict)  # name -> rank, alpha
    whole: dict[str, None] = field(default_factory=dict)
    token_modules: dict[str, None] = field(default_factory=dict)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)


def read_stored(model: nn.Module, folder: Path, file: Path, config: AdapterConfig) -> StoredAdapter:
    """Match the file's tensors to the model. No tensor data is read. Raises CheckpointError."""
    if not file.exists() and not file.is_symlink():
        pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
        said = (
            f"only as a pickle ({pickles[0]}), which can run code and is never read; save it again with PEFT, which"
            " writes safetensors"
            if pickles
            else f"{file.name} is missing; the adapter was not copied completely"
        )
        raise CheckpointError(f"{folder}: {said}")
    header = read_header(file_inside(folder, file.name))
    factors: dict[str, dict[str, StoredTensor]] = {}
    lengths: dict[str, StoredTensor] = {}
    rows: dict[str, StoredTensor] = {}
    found = StoredAdapter(LoraSettings())
    for name, tensor in header.items():
        own = own_name(name)
        if own is None or not tensor.dtype.is_floating_point:
            raise CheckpointError(f"{file}: tensor {name!r} is nothing that a LoRA adapter holds")
        if own.endswith(_COPY):  # PEFT repeats the base's embedding or head where it is adapted
            _check_copy(model, file, own.replace(_COPY, ".weight"), tensor)
            continue
        found.tensors[own] = tensor
        module, kind = _split(own)
        if kind in _FACTORS:
            factors.setdefault(module, {})[_FACTORS[kind]] = tensor
        elif kind == _LENGTHS:
            lengths[module] = tensor
        elif kind == _DELTA:
            rows[module] = tensor
        else:
            _check_whole(model, file, own, tensor)
            found.whole[module] = None
    _take_once_what_is_tied(model, file, found)
    _check_factors(model, file, factors, lengths, config, found)
    _check_rows(model, file, rows, config, found)
    _check_complete(model, file, found)
    first = next(iter(found.token_modules), None)
    found.settings = LoraSettings(
        r=config.r,
        alpha=config.alpha,
        dropout=config.dropout,
        rslora=config.rslora,
        dora=config.dora,
        init=config.init,
        modules_to_save=tuple(found.whole),
        new_tokens=() if first is None else _ids(config, first),
    )
    return found


@torch.no_grad()
def fill(own: Mapping[str, Tensor], stored: StoredAdapter) -> None:
    """Copy the file's values over the fresh ones of an adapter just installed."""
    for name, tensor in stored.tensors.items():
        own[name].copy_(read_tensor(tensor))


def _split(own: str) -> tuple[str, str]:
    """A parameter's module and what it is of it."""
    for kind in (*_FACTORS, _LENGTHS, _DELTA):
        if own.endswith(kind):
            return own.removesuffix(kind), kind
    return own.rpartition(".")[0], "whole"


def _check_whole(model: nn.Module, file: Path, own: str, tensor: StoredTensor) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    module = own.rpartition(".")[0]
    if own not in parameters or type(model.get_submodule(module)) not in (
        nn.Linear,
        nn.Embedding,
        GlmRMSNorm,
    ):
        raise CheckpointError(f"{file}: the model has no {own!r}.{nearest(own, parameters)}")
    if tensor.shape != tuple(parameters[own].shape):
        raise CheckpointError(
            f"{file}: {own} is {list(tensor.shape)}, the model's is {list(parameters[own].shape)}"
        )


def _check_copy(model: nn.Module, file: Path, own: str, tensor: StoredTensor) -> None:
    base = dict(model.named_parameters()).get(own)
    same = base is not None and tuple(base.shape) == tensor.shape
    if base is not None and same and not base.is_meta:
        same = torch.equal(read_tensor(tensor).to(base), base)
    if not same:
        raise CheckpointError(
            f"{file}: holds a copy of the base's {own}, which is not that of the model at hand: the adapter was trained"
            " on another base, or with resized embeddings"
        )


def _take_once_what_is_tied(model: nn.Module, file: Path, found: StoredAdapter) -> None:
    """PEFT saves a tied matrix under both names; under one alone, or with two values, it was parted in training."""
    first, second = (f"{name}.weight" for name in TIED)
    pair = [found.tensors.get(name) for name in (first, second)]
    if not is_tied(model) or pair == [None, None]:
        return
    if pair[0] is None or pair[1] is None or not torch.equal(read_tensor(pair[0]), read_tensor(pair[1])):
        raise CheckpointError(
            f"{file}: embed_tokens and lm_head are one matrix in this model, and two in the adapter; train it with"
            " PEFT's ensure_weight_tying"
        )
    del found.tensors[second], found.whole[TIED[1]]


def _check_factors(
    model: nn.Module,
    file: Path,
    factors: dict[str, dict[str, StoredTensor]],
    lengths: dict[str, StoredTensor],
    config: AdapterConfig,
    found: StoredAdapter,
) -> None:
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if not factors:
        raise CheckpointError(f"{file}: holds no lora_A and lora_B")
    if lengths.keys() != (factors.keys() if config.dora else set()):
        raise CheckpointError(
            f"{file}: use_dora is {config.dora}, which lora_magnitude_vector contradicts; the folder mixes two adapters"
        )
    for name, pair in factors.items():
        if name not in linears:
            raise CheckpointError(
                f"{file}: adapts {name!r}, which is no linear layer of this model.{nearest(name, linears)}"
            )
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{file}: {name} lacks lora_{'B' if 'A' in pair else 'A'}")
        part, a, b = linears[name], pair["A"].shape, pair["B"].shape
        rank = a[0] if len(a) == 2 else 0
        if rank < 1 or a != (rank, part.in_features) or b != (part.out_features, rank):
            raise CheckpointError(
                f"{file}: {name} is {part.out_features} x {part.in_features}, its lora_A is {list(a)} and its lora_B "
                f"{list(b)}"
            )
        if rank != config.r and not config.rank_pattern:
            raise CheckpointError(f"{file}: {name} has rank {rank}, adapter_config.json says {config.r}")
        if config.dora and lengths[name].shape != (part.out_features,):
            raise CheckpointError(
                f"{file}: {name} has {part.out_features} rows, {list(lengths[name].shape)} lengths"
            )
        if name == HEAD and is_tied(model):
            raise CheckpointError(
                f"{file}: adapts lm_head, which is tied to the embedding here; not supported"
            )
        found.adapted[name] = (rank, config.alpha_of(name))
    order = {name: at for at, name in enumerate(linears)}
    found.adapted = dict(sorted(found.adapted.items(), key=lambda item: order[item[0]]))


def _check_rows(
    model: nn.Module, file: Path, rows: dict[str, StoredTensor], config: AdapterConfig, found: StoredAdapter
) -> None:
    """Rows of new tokens: in the embedding, and with the same ids in an untied head."""
    embedding: nn.Embedding = model.get_input_embeddings()  # type: ignore[operator]
    home = next(name for name, part in model.named_modules() if part is embedding)
    if bool(rows) != bool(config.token_ids):
        raise CheckpointError(f"{file}: trainable_token_indices and the tensors contradict each other")
    for name, tensor in rows.items():
        ids = _ids(config, name)
        if name not in (home, HEAD) or home not in rows or not ids or ids != _ids(config, home):
            raise CheckpointError(f"{file}: rows of new tokens for {name!r}, which is not supported")
        if tensor.shape != (len(ids), embedding.embedding_dim):
            raise CheckpointError(
                f"{file}: {name} has {len(ids)} new tokens, their rows are {list(tensor.shape)}"
            )
        if max(ids) >= embedding.num_embeddings:
            raise CheckpointError(
                f"{file}: token {max(ids)} is not in the model's {embedding.num_embeddings} rows; resize its embeddings"
                " first"
            )
        if name in found.whole:
            raise CheckpointError(f"{file}: {name} is saved whole and in rows")
        found.token_modules[name] = None


def _ids(config: AdapterConfig, name: str) -> tuple[int, ...]:
    last = name.rpartition(".")[2]
    named = config.token_ids.get(name, config.token_ids.get(last, ()))
    return named or (config.token_ids.get("", ()) if last == EMBEDDING else ())


def _check_complete(model: nn.Module, file: Path, found: StoredAdapter) -> None:
    parts = {*found.whole} | ({CLASSIFIER} if hasattr(model, CLASSIFIER) else set())
    for part in sorted(parts):
        for name, _ in model.get_submodule(part).named_parameters(prefix=part):
            if name not in found.tensors:
                raise CheckpointError(f"{file}: lacks {name}, which this model needs from its adapter")
    if both := [name for name in found.whole if name in found.adapted]:
        raise CheckpointError(f"{file}: {both[0]} is adapted and saved whole")
