"""The public models: the plain modules of `model/`, with `from_pretrained` and `save_pretrained`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from glm_train.checkpoint.disk import disk_errors
from glm_train.checkpoint.fit import check_sizes
from glm_train.checkpoint.index import read_index
from glm_train.checkpoint.safetensors_file import strict_json
from glm_train.checkpoint.weights import MAX_SHARD_BYTES, load_weights, save_weights
from glm_train.errors import CheckpointError
from glm_train.hub import resolve_folder
from glm_train.model import decoder, heads
from glm_train.model.config import GlmConfig
from glm_train.model.config_faults import id_faults

GENERATION_NAME = "generation_config.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Pretrained(nn.Module):
    """Reads and writes Hugging Face model folders, for a module that is built from a `GlmConfig` alone."""

    config: GlmConfig

    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        #: What generation_config.json holds: the folder's own, else stop and padding ids from the config.
        self.generation_config = _with_ids({}, config)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
    ) -> Self:
        """The model of a local folder or hub id, in evaluation mode (`.train()` before training).

        `dtype` is a torch dtype or its name; None and "auto" take the config's, else the files'. `device`
        is where the weights go (default: CPU). `torch_dtype` and `device_map` are transformers' names for
        the two; `device_map="auto"` is the GPU where there is one. Only safetensors are read, one tensor at
        a time: the peak is the model plus one tensor. No code of the folder is run.

        Raises `CheckpointError` naming the file or tensor and the cure.
        """
        folder = resolve_folder(folder_or_hub_id, revision=revision)
        config = GlmConfig.from_pretrained(folder)
        check_sizes(config, read_index(folder))
        generation = _read_generation(folder, config)
        wanted = _dtype(dtype if dtype is not None else torch_dtype) or _dtype(config.dtype)
        with torch.device("meta"):
            model = cls(config)
        load_weights(
            model, folder, dtype=wanted, device=_device(device if device is not None else device_map)
        )
        model.generation_config = generation
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, max_shard_bytes: int = MAX_SHARD_BYTES, overwrite: bool = False
    ) -> None:
        """Write config.json, generation_config.json and the weights in their present dtype into `folder`.

        transformers reads the folder. Other files in it (a tokenizer) are left alone. A folder that holds
        weights already is refused unless `overwrite=True`. Raises `CheckpointError`.
        """
        folder = Path(folder)
        save_weights(self, folder, max_shard_bytes=max_shard_bytes, overwrite=overwrite)
        config = copy.copy(self.config)
        config.architectures = [_transformers_name(type(self).__name__, config.model_type)]
        config.dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        generation = json.dumps(self.generation_config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        with disk_errors(folder, len(generation), "the model's configuration"):
            config.save_pretrained(folder)
            (folder / GENERATION_NAME).write_text(generation, encoding="utf-8")


class GlmModel(Pretrained, decoder.GlmModel):
    """The bare decoder, which returns hidden states. Also reads a causal LM's folder, without its head."""


class GlmForCausalLM(Pretrained, heads.GlmForCausalLM):
    """GLM with a language-modelling head."""


def _transformers_name(name: str, model_type: str) -> str:
    """`GlmForCausalLM` is `Glm4ForCausalLM` for model_type `glm4`."""
    return name.replace("Glm", "Glm4", 1) if model_type == "glm4" else name


def _dtype(value: torch.dtype | str | None) -> torch.dtype | None:
    if value is None or value == "auto" or isinstance(value, torch.dtype):
        return value if isinstance(value, torch.dtype) else None
    name = str(value).removeprefix("torch.")
    if name not in _DTYPES:
        raise CheckpointError(f"dtype {value!r}: expected one of {', '.join(_DTYPES)} or auto")
    return _DTYPES[name]


def _device(value: str | torch.device | None) -> torch.device:
    if value is None:
        return torch.device("cpu")
    if value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise CheckpointError(
            f"device {value!r}: expected one device, such as cpu, cuda or cuda:1, or auto. "
            "A model spread over several devices by layer is not supported."
        ) from None


def _read_generation(folder: Path, config: GlmConfig) -> dict[str, Any]:
    path = folder / GENERATION_NAME
    try:
        values = strict_json(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    if faults := id_faults(values, config.vocab_size):
        raise CheckpointError("\n".join(f"{path}: {fault}" for fault in faults))
    return _with_ids(values, config)


def _with_ids(values: dict[str, Any], config: GlmConfig) -> dict[str, Any]:
    """`values`, with the config's stop ids (all: each ends a turn) and padding id where it names none."""
    ids = {"eos_token_id": config.eos_token_ids, "pad_token_id": config.pad_token_id}
    return {**{key: value for key, value in ids.items() if value not in (None, [])}, **values}
