"""A model folder or an adapter folder, opened without reading its weights: what it is made of, and what it would be as
one plain model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glm_train.adapters.base_file import BASE_NAME, read_adapter_base
from glm_train.adapters.config_file import CONFIG_NAME as ADAPTER_CONFIG
from glm_train.adapters.folder import WEIGHTS_NAME, is_adapter_folder, read_adapter_config
from glm_train.adapters.record import own_name
from glm_train.adapters.stream_merge import FileAdapter, open_adapter, require_base
from glm_train.checkpoint.fit import places
from glm_train.checkpoint.index import file_inside, read_index
from glm_train.checkpoint.mapped import map_slots
from glm_train.checkpoint.new_head import check_head
from glm_train.checkpoint.safetensors_file import Deferred, read_header
from glm_train.checkpoint.sizes import check_sizes
from glm_train.checkpoint.slices import SavedTensor
from glm_train.checkpoint.unfilled import unfilled
from glm_train.checkpoint.weights import fitting_slots
from glm_train.errors import CheckpointError, ConfigError
from glm_train.hub import resolve_folder
from glm_train.model.config import GlmConfig

_HEAD = "score."
# PEFT's names of tasks; its folders say no more.
_ARCHITECTURES = {
    "CAUSAL_LM": "GlmForCausalLM",
    "SEQ_CLS": "GlmForSequenceClassification",
    "TOKEN_CLS": "GlmForTokenClassification",
}


@dataclass(frozen=True)
class Opened:
    """`model` lies in the files of a base; `adapter`, where there is one, is not merged into it.

    `saved` are the weights of a run state, by the names of the model's parameters: then the model has none of its own.
    """

    model: Any
    adapter: FileAdapter | None
    saved: Mapping[str, SavedTensor] | None = None

    def plain(self, name: str, stored: Tensor) -> Tensor:
        """The parameter `name`, which the model has as `stored`, with all its values and without an adapter's."""
        return stored if self.saved is None else self.saved[name].whole()

    def merged_state(self, dtype: torch.dtype | None) -> dict[str, Deferred]:
        """All tensors of the one plain model by Hugging Face's names, none of them made yet.

        In `dtype`; None keeps each one's, which is the base's for what an adapter changed. A classification head keeps
        its own, for the base had none.
        """
        return {
            place.names[0]: self._deferred(place.names[0], place.target, dtype)
            for place in places(self.model)
        }

    def _deferred(self, name: str, target: Tensor, dtype: torch.dtype | None) -> Deferred:
        base, adapter = target.detach(), self.adapter
        if adapter is None:
            kind = dtype or (base.dtype if self.saved is None else self.saved[name].dtype)
            return Deferred(kind, tuple(base.shape), lambda: self.plain(name, base).to(kind))
        own = adapter.replaced(name, base) if name.startswith(_HEAD) else base
        kind = dtype or own.dtype
        return Deferred(kind, tuple(base.shape), lambda: adapter.merged(name, base, kind))


def open_files(kind: type, config: GlmConfig, folder: Path, base: Path) -> Opened:
    """The model of `folder`, a `kind`, whose weights lie in `base`: another folder where the first holds an adapter.

    Raises `CheckpointError` where anything does not fit, and for a base that is not the adapter's.
    """
    index = read_index(base)
    check_sizes(config, index)
    adapted = is_adapter_folder(folder)
    if not adapted:
        check_head(kind.__name__, config, index)
    model = unfilled(kind, config)
    map_slots(model, fitting_slots(model, index))
    if adapted:
        require_base(model, folder, base)
    return Opened(model, open_adapter(model, folder) if adapted else None)


def base_of(folder: Path) -> Path:
    """The folder that holds the weights: an adapter's base, else `folder` itself. Raises `CheckpointError`."""
    if not is_adapter_folder(folder):
        return folder
    known = read_adapter_base(folder)
    name = read_adapter_config(folder).base_name if known is None else known.name
    file, key = (ADAPTER_CONFIG, "base_model_name_or_path") if known is None else (BASE_NAME, "base_model")
    if not name:
        raise CheckpointError(
            f"{folder / file}: names no base model; write the folder of the adapter's base there, as {key}"
        )
    try:
        return resolve_folder(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder / file}: the adapter's base model is not there: {error}. Put it back, or write its new"
            f" place as {key} in {file}"
        ) from None


def config_of(folder: Path, base: Path) -> GlmConfig:
    """The configuration of the model with its head: for an adapter, its base's, changed as the adapter says."""
    if not is_adapter_folder(folder):
        return GlmConfig.from_pretrained(folder)
    architecture, changes = class_of(folder)
    try:
        return GlmConfig.from_pretrained(base, **changes, architectures=[architecture])
    except ConfigError as error:
        raise CheckpointError(f"{folder / BASE_NAME}: config_changes do not fit the base: {error}") from None


def class_of(folder: Path) -> tuple[str, dict[str, Any]]:
    """The class that an adapter was trained on, and what it changes in its base's configuration.

    An adapter that PEFT saved says its task; how many labels it has, its head says. Raises `CheckpointError`.
    """
    if (known := read_adapter_base(folder)) is not None:
        return known.architecture, known.config_changes
    task = read_adapter_config(folder).task_type or "CAUSAL_LM"
    if task not in _ARCHITECTURES:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: task_type {task} is none of {', '.join(_ARCHITECTURES)}"
        )
    outputs = None if task == "CAUSAL_LM" else _outputs(folder)
    return _ARCHITECTURES[task], {} if outputs is None else {"num_labels": outputs}


def _outputs(folder: Path) -> int | None:
    """The rows of the classification head in an adapter's file; None without one, which loading then refuses."""
    if not (folder / WEIGHTS_NAME).exists():
        return None
    for name, stored in read_header(file_inside(folder, WEIGHTS_NAME)).items():
        if own_name(name) == f"{_HEAD}weight" and stored.shape:
            return stored.shape[0]
    return None
