"""The public models: the plain modules of `model/`, with `from_pretrained` and `save_pretrained`."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from glm_train.checkpoint.arguments import read_bytes, read_device, read_dtype, refuse_foreign
from glm_train.checkpoint.disk import disk_errors
from glm_train.checkpoint.index import read_index
from glm_train.checkpoint.memory import require_memory
from glm_train.checkpoint.new_head import check_head
from glm_train.checkpoint.safetensors_file import Deferred, strict_json
from glm_train.checkpoint.sizes import check_sizes
from glm_train.checkpoint.unfilled import unfilled
from glm_train.checkpoint.weights import MAX_SHARD_BYTES, load_weights, save_weights
from glm_train.errors import CheckpointError
from glm_train.hub import read_text, resolve_folder
from glm_train.model import classification, decoder, heads
from glm_train.model.config import GlmConfig
from glm_train.model.config_faults import id_faults
from glm_train.model.config_file import is_kept

GENERATION_NAME = "generation_config.json"
log = logging.getLogger(__name__)


class Pretrained(nn.Module):
    """Reads and writes Hugging Face model folders, for a module that is built from a `GlmConfig` alone."""

    config: GlmConfig

    def __init__(self, config: GlmConfig) -> None:
        super().__init__(config)
        #: What generation_config.json holds: the folder's own, else stop and padding ids from the config.
        self.generation_config = _with_ids({}, config)
        #: The parameters of a classification head that the folder lacked: random until they are trained.
        self.new_parameters: list[str] = []

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        config: GlmConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: str | torch.device | None = None,
        **config_changes: Any,
    ) -> Self:
        """The model of a local folder or hub id, in evaluation mode (`.train()` before training).

        `config` takes the place of the folder's config.json, and `config_changes` (`num_labels=5`,
        `bidirectional=True`, `attention_dropout=0.1`, ...) change it, as `GlmConfig.with_changes` does.
        `dtype` is a torch dtype or its name; None and "auto" take the config's, else the files'. `device`
        is where the weights go (default: CPU); on "meta" the model has no memory, and `load_weights` fills it
        later. `torch_dtype` and `device_map` are transformers' names for the two; `device_map="auto"` is the
        GPU where there is one. Only safetensors are read, one tensor at a time: the peak is the model plus one
        tensor. No code of the folder is run.

        A folder of any head fits any other class: a head that the class lacks is not read, and a classification
        head that the folder lacks starts from random values (torch's global seed), which is logged and kept in
        `new_parameters`. Raises `CheckpointError` naming the file or tensor and the cure, and `ConfigError` for
        changes that cannot be made.
        """
        place, wanted = read_device(device, device_map), read_dtype(dtype, torch_dtype)
        refuse_foreign(config_changes)
        if config is not None:
            decoder.require_config(config)
        folder = resolve_folder(folder_or_hub_id, revision=revision)
        config = GlmConfig.from_pretrained(folder) if config is None else config
        config = config.with_changes(**config_changes)  # a copy, also of what the caller gave
        index = read_index(folder)
        check_sizes(config, index)
        check_head(cls.__name__, config, index)
        generation = read_generation(folder, config)
        wanted = wanted or read_dtype(config.dtype)
        model = unfilled(cls, config)
        require_memory(model, (wanted or torch.bfloat16).itemsize, place, folder)
        model.new_parameters = load_weights(model, folder, dtype=wanted, device=place)
        if model.new_parameters:
            _say_what_is_new(model, folder)
        model.generation_config = generation
        return model.eval()

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        max_shard_bytes: int | None = None,
        max_shard_size: int | str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write config.json, generation_config.json and the weights in their present dtype into `folder`.

        transformers reads the folder. Files hold at most `max_shard_bytes` (default: 5 GiB); `max_shard_size` is
        transformers' name for it, which may be text ("5GB", "500MiB"). Other files in the folder (a tokenizer) are
        left alone. A folder that holds weights already is refused unless `overwrite=True`. Raises
        `CheckpointError`.
        """
        folder = Path(folder)
        if max_shard_size is not None:
            if max_shard_bytes is not None:
                raise ValueError("max_shard_bytes and max_shard_size are two names for one thing; give one")
            max_shard_bytes = read_bytes(max_shard_size)
        limit = MAX_SHARD_BYTES if max_shard_bytes is None else max_shard_bytes
        if self.device.type == "meta":
            raise CheckpointError(
                "the model is on the meta device, without weights; fill it with load_weights first"
            )
        write_model(self, self, folder, max_shard_bytes=limit, overwrite=overwrite)

    @property
    def device(self) -> torch.device:
        """Where the parameters lie (the first one)."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' dtype (the first one's)."""
        return next(self.parameters()).dtype

    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the parameters hold, those of a tied head once."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)


class GlmModel(Pretrained, decoder.GlmModel):
    """The bare decoder, which returns hidden states."""


class GlmForCausalLM(Pretrained, heads.GlmForCausalLM):
    """GLM with a language-modelling head."""


class GlmForSequenceClassification(Pretrained, classification.GlmForSequenceClassification):
    """GLM with a head that gives each document one answer."""


class GlmForTokenClassification(Pretrained, classification.GlmForTokenClassification):
    """GLM with a head that gives each token one answer."""


def write_model(
    model: Pretrained,
    weights: nn.Module | Mapping[str, Tensor | Deferred],
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """What `model.save_pretrained` writes, with `weights` in the place of its own. Raises `CheckpointError`."""
    head = getattr(model, "score", None)
    if head is not None and head.out_features != model.config.num_labels:
        raise CheckpointError(
            f"config.num_labels is {model.config.num_labels}, but the head has {head.out_features} outputs: nobody"
            " could load that folder. Set the config's labels back, or build the model with the new ones"
        )
    save_weights(weights, folder, max_shard_bytes=max_shard_bytes, overwrite=overwrite)
    config = copy.copy(model.config)
    config.architectures = [_transformers_name(type(model).__name__, config.model_type)]
    config.dtype = str(model.dtype).removeprefix("torch.")
    with disk_errors(folder, 0, "the model's configuration"):
        config.save_pretrained(folder)
        write_generation(folder, model.generation_config)


def write_generation(folder: Path, values: dict[str, Any]) -> None:
    """Write generation_config.json into a model or adapter folder."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (folder / GENERATION_NAME).write_text(text, encoding="utf-8")


@contextmanager
def silent_about_new_heads() -> Iterator[None]:
    """Keep back the warning that a base has no classification head: its adapter, or a run's state, has it."""

    def keep_back(record: logging.LogRecord) -> bool:
        return "classification head" not in str(record.msg)

    log.addFilter(keep_back)
    try:
        yield
    finally:
        log.removeFilter(keep_back)


def _say_what_is_new(model: Pretrained, folder: Path) -> None:
    shapes = [
        f"{name} {list(parameter.shape)}"
        for name, parameter in model.named_parameters()
        if name in model.new_parameters
    ]
    log.warning(
        "%s holds no classification head: %s %s new, with random values; train the model before you use it",
        folder,
        " and ".join(shapes),
        "is" if len(shapes) == 1 else "are",
    )


def _transformers_name(name: str, model_type: str) -> str:
    """`GlmForCausalLM` is `Glm4ForCausalLM` for model_type `glm4`."""
    return name.replace("Glm", "Glm4", 1) if model_type == "glm4" else name


def read_generation(folder: Path, config: GlmConfig) -> dict[str, Any]:
    path = folder / GENERATION_NAME
    try:
        values = strict_json(read_text(path))
    except FileNotFoundError:
        values = {}
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    if faults := id_faults(values, config.vocab_size):
        raise CheckpointError("\n".join(f"{path}: {fault}" for fault in faults))
    return _with_ids({key: value for key, value in values.items() if is_kept(key, value)}, config)


def _with_ids(values: dict[str, Any], config: GlmConfig) -> dict[str, Any]:
    """`values`, with the config's stop ids (all: each ends a turn) and padding id where it names none."""
    ids = {"eos_token_id": config.eos_token_ids, "pad_token_id": config.pad_token_id}
    return {**{key: value for key, value in ids.items() if value not in (None, [])}, **values}
