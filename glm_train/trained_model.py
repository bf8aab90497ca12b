"""The model of a run or of a model folder, put together again: base, adapter, tokenizer, and how it was
trained; in memory, or left in its files."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from glm_train.adapters.base_file import BASE_NAME
from glm_train.adapters.folder import is_adapter_folder, load_adapter
from glm_train.adapters.merge import settle
from glm_train.adapters.opened import Opened, base_of, class_of, config_of, open_files
from glm_train.adapters.quantize import quantize_base
from glm_train.build_model import MODELS
from glm_train.checkpoint.disk import disk_errors
from glm_train.checkpoint.fit import places
from glm_train.checkpoint.pretrained import (
    GENERATION_NAME,
    Pretrained,
    read_generation,
    silent_about_new_heads,
)
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.errors import CheckpointError, ConfigError
from glm_train.hub import resolve_folder
from glm_train.model.config import GlmConfig
from glm_train.run_folder import find_model
from glm_train.run_saved import open_run_state, save_adapter_of
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

# By the end of a class's name in config.json: `Glm4ForCausalLM` and `GlmForCausalLM` are one task.
_TASKS = {
    "ForCausalLM": "chat",
    "ForConditionalGeneration": "chat",
    "ForSequenceClassification": "sequence_classification",
    "ForTokenClassification": "token_classification",
}


@dataclass(frozen=True)
class TrainedModel:
    """A model in evaluation mode. `settings` are those of its run; None for a folder that no run left."""

    folder: Path
    task: str  # a key of MODELS
    model: Pretrained
    tokenizer: GlmTokenizer
    settings: RunConfig | None


@dataclass(frozen=True)
class StoredModel:
    """A model that stays in its files, checked. Its weights lie in `base`, which is `folder` itself where no adapter
    was trained; those of a saved `state` of a run lie in that, and `base` has what was not trained."""

    folder: Path
    base: Path
    task: str
    config: GlmConfig
    files: Opened
    tokenizer: GlmTokenizer
    state: Path | None = None


def open_stored(folder: Path) -> StoredModel:
    """A model folder or an adapter folder with its base. Raises `CheckpointError`."""
    base = base_of(folder)
    config = config_of(folder, base)
    task = task_of(config.architectures, folder)
    files = open_files(MODELS[task], config, folder, base)
    tokenizer = tokenizer_of(folder)
    check_vocabulary(config, tokenizer)
    return StoredModel(folder, base, task, config, files, tokenizer)


def open_saved(state: Path, place: Path, stack: ExitStack) -> StoredModel:
    """What a run would have left at a saved state. Its adapter is written into a folder beside `place`, which goes with
    `stack`. Raises `CheckpointError` and `ConfigError`."""
    saved = open_run_state(state)
    if saved.adapted:
        with disk_errors(place, 0, "the adapter"):
            place.parent.mkdir(parents=True, exist_ok=True)
            made = TemporaryDirectory(prefix=f".{place.name[:40]}-", dir=place.parent)
        folder = Path(stack.enter_context(made))
        save_adapter_of(saved, folder)
        return replace(open_stored(folder), state=state)
    model = saved.bare_model()
    saved.require_fit({weight.names[0]: weight.target for weight in places(model)})
    files = Opened(model, None, saved.weights)
    return StoredModel(state, saved.base, saved.config.task.name, model.config, files, saved.tokenizer, state)


def load_trained(
    run_or_model: str, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> TrainedModel:
    """What a user's word names: a run folder, a folder of runs (its newest), a model or adapter folder, a hub id.

    An adapter is put on its base, which its folder names; that of a `qlora` run on a base in 4 bits, as it was trained.
    Raises `CheckpointError`, and `ConfigError` where the package for that is missing.
    """
    folder = resolve_folder(find_model(run_or_model))
    settings, place = _settings(folder), {"dtype": dtype or torch.float32, "device": device}
    if is_adapter_folder(folder):
        in_4_bits = settings is not None and settings.adapter.name == "qlora"
        task, model = _read_adapted(folder, in_4_bits=in_4_bits, **place)
    else:
        task, model = _read_whole(folder, **place)
    return TrainedModel(folder, task, model.eval(), tokenizer_of(folder), settings)


def tokenizer_of(folder: Path) -> GlmTokenizer:
    """The folder's own; of an adapter that PEFT saved, which has none, its base's."""
    own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return GlmTokenizer.from_pretrained(folder if own else base_of(folder))


def _read_whole(folder: Path, **place: Any) -> tuple[str, Pretrained]:
    task = task_of(GlmConfig.from_pretrained(folder).architectures, folder)
    return task, MODELS[task].from_pretrained(folder, **place)


def _read_adapted(folder: Path, *, in_4_bits: bool, **place: Any) -> tuple[str, Pretrained]:
    """The adapter's base with the adapter in it, or on it where it would be rounded; in 4 bits as it was trained."""
    base, (architecture, changes) = base_of(folder), class_of(folder)
    task = task_of([architecture], folder)
    try:
        with silent_about_new_heads():
            model = MODELS[task].from_pretrained(base, **changes, **place)
    except ConfigError as error:
        raise CheckpointError(f"{folder / BASE_NAME}: config_changes do not fit the base: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: the base of this adapter, {base}: {error}") from None
    if in_4_bits:
        quantize_base(model, device=place["device"])
    load_adapter(model, folder)
    model.new_parameters = []  # an adapter without the head would have been refused
    settle(model)
    if (folder / GENERATION_NAME).exists():
        model.generation_config = read_generation(folder, model.config)
    return task, model


def task_of(architectures: list[str] | None, folder: Path) -> str:
    """The task that the `architectures` of a config.json are made for; chat where it names none."""
    names = architectures or ["GlmForCausalLM"]
    for end, task in _TASKS.items():
        if names[0].endswith(end):
            return task
    if names[0] in ("ChatGLMModel", "ChatGLMForConditionalGeneration"):
        return "chat"
    raise CheckpointError(
        f"{folder}: its config.json names the architecture {names[0]!r}, which has no head to answer with."
        f" Expected one that ends in {', '.join(_TASKS)}"
    )


def _settings(folder: Path) -> RunConfig | None:
    """The settings of the run whose `model` this folder is."""
    path = folder.parent / "config.yaml"
    if folder.name != "model" or not path.is_file():
        return None
    from glm_train.config.compose import compose

    return compose(str(path))
