"""Adapter folders: PEFT's format, so PEFT, vLLM and others read them, and folders of PEFT are read here.

adapter_config.json          PEFT's settings
adapter_model.safetensors    the tensors, fp32, by PEFT's names
adapter_base.json            which base they belong to (ours)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.base import base_of, head_of
from glm_train.adapters.base_file import BASE_NAME, AdapterBase, head_settings, read_adapter_base, write_base
from glm_train.adapters.config_file import CONFIG_NAME, AdapterConfig, config_text, read_adapter_config
from glm_train.adapters.record import AdapterReport, adapter_tensors, own_tensors, peft_name, record_of
from glm_train.adapters.stored import StoredAdapter, fill, read_stored
from glm_train.adapters.targets import CLASSIFIER, HEAD, TIED, is_tied, names_to_save, short_names
from glm_train.checkpoint.disk import disk_errors, require_room, sync_folder, write_text
from glm_train.checkpoint.safetensors_file import Deferred, stored_bytes, write_tensors
from glm_train.errors import CheckpointError

__all__ = [
    "AdapterBase",
    "AdapterConfig",
    "adapter_tensors",
    "is_adapter_folder",
    "load_adapter",
    "read_adapter_base",
    "read_adapter_config",
    "save_adapter",
]
WEIGHTS_NAME = "adapter_model.safetensors"
_TEMPORARY = ".tmp-"


def is_adapter_folder(path: str | Path) -> bool:
    """True for a folder with an adapter_config.json. Whether it is sound, `read_adapter_config` says."""
    try:
        return (Path(path) / CONFIG_NAME).is_file()
    except (OSError, ValueError):
        return False


def save_adapter(
    model: nn.Module,
    folder: str | Path,
    base_name: str,
    *,
    config_changes: dict[str, Any] | None = None,
    overwrite: bool = False,
    tensors: Mapping[str, Tensor | Deferred] | None = None,
) -> None:
    """Write the model's adapter into `folder`, readable by PEFT. Other files there are left alone.

    `base_name`: the folder or hub id the base was loaded from. `config_changes`: what has to be changed in the base's
    config to build the model again, by default the settings of a classification head. `tensors` take the place of the
    model's own, of `own_tensors(model)`, where those are shares. An adapter that started from the base's own weights
    (`pissa`, `olora`) is saved as a plain one of twice the rank. The file of settings is put in place last. Raises
    CheckpointError for a folder that holds an adapter already (unless `overwrite`), and where the disk is full or
    fails; ValueError for a model without adapter.
    """
    folder, report = Path(folder), record_of(model)
    if not overwrite and is_adapter_folder(folder):
        raise CheckpointError(
            f"{folder}: already holds an adapter. Choose another folder, or pass overwrite=True"
        )
    plain, twice = _plain_tensors(model, own_tensors(model) if tensors is None else tensors)
    changes = head_settings(model) if config_changes is None else config_changes
    base = AdapterBase(base_name, base_of(model), type(model).__name__, changes, head_of(model))
    texts = {BASE_NAME: write_base(base), CONFIG_NAME: _config(model, report, base_name, twice)}
    needed = stored_bytes(plain) + sum(len(text.encode()) for text in texts.values())
    with disk_errors(folder, needed, "the adapter"):
        folder.mkdir(parents=True, exist_ok=True)
        require_room(folder, needed, "the adapter")
        names = [WEIGHTS_NAME, *texts]
        parts = {name: folder / f"{_TEMPORARY}{name}-{os.getpid()}" for name in names}
        try:
            write_tensors(parts[WEIGHTS_NAME], plain, {"format": "pt"})
            for name, text in texts.items():
                write_text(parts[name], text)
            (folder / CONFIG_NAME).unlink(
                missing_ok=True
            )  # a cut replacement is no adapter, rather than half of one
            for name in names:
                parts[name].rename(folder / name)
            sync_folder(folder)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)


def load_adapter(model: nn.Module, folder: str | Path, *, other_base: bool = False) -> AdapterReport:
    """Add the adapter of a folder, ours or PEFT's, to its base; it can be used, merged, or trained on.

    Everything is checked before the model is changed: the base (`other_base=True` takes any of the right shape), the
    task, names, shapes and settings. Only safetensors are read. Raises CheckpointError saying which does not fit;
    ValueError for a model that has an adapter already.
    """
    from glm_train.adapters.lora import install
    from glm_train.adapters.record import has_adapter

    folder = Path(folder)
    if has_adapter(model):
        raise ValueError("the model has an adapter already; merge it first, or start from the base")
    config = read_adapter_config(folder)
    _check_task(model, folder, config)
    if not other_base:
        _check_base(model, folder)
    stored: StoredAdapter = read_stored(model, folder, folder / WEIGHTS_NAME, config)
    with_head = HEAD in stored.token_modules
    report = install(
        model, stored.settings, stored.adapted, list(stored.whole), head_rows=with_head, new=False
    )
    fill(own_tensors(model), stored)
    return report


def _check_base(model: nn.Module, folder: Path) -> None:
    base = read_adapter_base(folder)
    if base is not None and not base.fits(found := base_of(model), head_of(model)):
        part = "model" if base.fingerprint != found else "model's lm_head"
        raise CheckpointError(
            f"{folder}: this adapter belongs to another base: it was trained on {base.name} (fingerprint "
            f"{base.fingerprint[:12]}), and the {part} at hand has other weights (fingerprint {found[:12]}). Load that"
            " base; on other weights an adapter's answers are arbitrary"
        )


def _check_task(model: nn.Module, folder: Path, config: AdapterConfig) -> None:
    task = task_type(model)
    if config.task_type not in (None, task):
        raise CheckpointError(
            f"{folder}: an adapter for {config.task_type}; {type(model).__name__} needs one for {task}"
        )


def task_type(model: nn.Module) -> str:
    """PEFT's name for what the model does."""
    if hasattr(model, CLASSIFIER):
        return "TOKEN_CLS" if hasattr(model, "dropout") else "SEQ_CLS"
    return "CAUSAL_LM" if hasattr(model, HEAD) else "FEATURE_EXTRACTION"


def _plain_tensors(
    model: nn.Module, tensors: Mapping[str, Tensor | Deferred]
) -> tuple[dict[str, Tensor | Deferred], bool]:
    """The adapter on the plain base by PEFT's names, and whether its rank is twice that of what is trained.

    `tensors`: the model's, as `own_tensors` names them.
    """
    from glm_train.adapters.layers import ADAPTER, AdaptedLinear

    own = {name: t for name, t in tensors.items() if not name.endswith((".start_A", ".start_B"))}
    first, second = (f"{name}.weight" for name in TIED)
    if first in own and is_tied(model):
        own[second] = own[first]  # PEFT asks for both names
    twice = False
    for name, part in model.named_modules():
        if isinstance(part, AdaptedLinear) and part.start_A is not None:
            for kind, dim, sign in (("A", 0, 1), ("B", 1, -1)):
                key = f"{name}.lora_{kind}.{ADAPTER}.weight"
                own[key] = _beside(own[key], tensors[f"{name}.start_{kind}"], dim, sign)
            twice = True
    return {peft_name(name): tensor for name, tensor in own.items()}, twice


def _beside(trained: Tensor | Deferred, start: Tensor | Deferred, dim: int, sign: int) -> Deferred:
    """A factor with its start behind it along `dim`."""

    def make() -> Tensor:
        parts = [t.make() if isinstance(t, Deferred) else t for t in (trained, start)]
        return torch.cat([part.cpu() for part in (parts[0], sign * parts[1])], dim)

    shape = list(trained.shape)
    shape[dim] *= 2
    return Deferred(trained.dtype, tuple(shape), make)


def _config(model: Any, report: AdapterReport, base_name: str, twice: bool) -> str:
    """adapter_config.json. The scaling must come out the same where the rank is twice what was trained."""
    from peft import LoraConfig

    settings = report.settings
    names = [name.replace(".base_layer", "") for name, _ in model.named_modules()]
    plain = model.peft_config["default"]
    grown = (2**0.5 if settings.rslora else 2) if twice else 1
    tokens: Any = {name.rpartition(".")[2]: list(settings.new_tokens) for name in report.token_modules}
    config = LoraConfig(
        base_model_name_or_path=base_name,
        task_type=task_type(model),
        inference_mode=True,
        r=settings.r * (2 if twice else 1),
        lora_alpha=settings.alpha * grown,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=short_names(report.adapted, names),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        modules_to_save=names_to_save(report.whole, names) or None,
        trainable_token_indices=tokens or None,
        ensure_weight_tying=TIED[0] in report.whole and is_tied(model),
        rank_pattern={k: v * (2 if twice else 1) for k, v in plain.rank_pattern.items()},
        alpha_pattern={k: v * grown for k, v in plain.alpha_pattern.items()},
    )
    return config_text(config.to_dict())
