"""A run's saved state as a model: what the run itself would have left at that step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from glm_train.adapters.base import remembered
from glm_train.adapters.lora import add_adapter
from glm_train.adapters.settings import SPLITS
from glm_train.build_data import build_tokenizer, config_changes
from glm_train.build_model import MODELS, base_dtype, lora_settings
from glm_train.checkpoint.mapped import map_weights
from glm_train.checkpoint.pretrained import Pretrained, silent_about_new_heads
from glm_train.checkpoint.resume import STATE_NAME
from glm_train.checkpoint.safetensors_file import strict_json
from glm_train.checkpoint.sharded import open_state
from glm_train.checkpoint.slices import SavedTensor, put
from glm_train.config.schema import LoraAdapter
from glm_train.data.sequence_targets import PROBLEM_TYPES, SequenceLabels
from glm_train.data.token_classes import TokenLabels
from glm_train.errors import CheckpointError, ConfigError
from glm_train.hub import resolve_folder
from glm_train.run_folder import newest_state
from glm_train.run_plan import model_position, refuse_other_base
from glm_train.run_result import save_result
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


@dataclass(frozen=True)
class SavedRun:
    """A saved state with what its run was: enough to make the model of it.

    `weights` are those that were trained, by the names of the model's parameters, on the disk. `base` is the folder of
    `model.path`, whose configuration is changed by `changes`. `position` is as in `run_plan.py`.
    """

    state: Path
    config: RunConfig
    base: Path
    changes: dict[str, Any]
    tokenizer: GlmTokenizer
    weights: Mapping[str, SavedTensor]
    position: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run's."""
        return run_of(self.state)

    @property
    def adapted(self) -> bool:
        return isinstance(self.config.adapter, LoraAdapter)

    def bare_model(self) -> Pretrained:
        """The model on the meta device, without an adapter. Raises `CheckpointError`."""
        kind = MODELS[self.config.task.name]
        try:
            with silent_about_new_heads():
                dtype = base_dtype(self.config)
                return kind.from_pretrained(self.base, dtype=dtype, device="meta", **self.changes)
        except ConfigError as error:
            raise CheckpointError(f"{self.base}: not the base of {self.state}: {error}") from None

    def require_fit(self, parameters: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless the saved weights have the names and shapes of these."""
        if faults := _misfits(parameters, self.weights):
            raise CheckpointError(
                f"{self.state}: not the weights of the model that {self.folder / 'config.yaml'} describes, on"
                f" {self.base}: " + "; ".join(faults)
            )


def run_of(state: Path) -> Path:
    """The folder of the run that a state lies in."""
    return state.absolute().parent.parent


def open_run_state(state: Path) -> SavedRun:
    """A saved state, every byte of which is as it was written. Raises `CheckpointError` and `ConfigError`."""
    folder = run_of(state)
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{state}: {folder / 'config.yaml'} is missing, which says of which model and task this state is; put it"
            " back, two folders above the state"
        )
    from glm_train.config.compose import compose

    config = compose(str(folder / "config.yaml"))
    tensors, meta = open_state(state)
    position = _position(state, folder, meta)
    if position is None or "model" not in tensors:
        raise CheckpointError(f"{state}: its state.json was written by another version of glm-train")
    try:
        tokenizer, model_config = build_tokenizer(config)
        base = resolve_folder(config.model.path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}\nThis is the model.path of {folder / 'config.yaml'}, on which {state} was trained: put it back,"
            " or write its new place there; a relative path counts from the folder in which the run was started"
        ) from None
    _refuse_other_model(state, position, model_position(config, model_config, tokenizer))
    changes = {**config_changes(config), **_labels(state, config, position)}
    return SavedRun(state, config, base, changes, tokenizer, tensors["model"], position)


def save_adapter_of(saved: SavedRun, path: Path) -> None:
    """Write the adapter folder that the run would have left at this step. The base stays in its files, in 16 bits too
    where the run had it in 4: the adapter is the same.

    First values that count from the base's own weights are found again as the run found them: with its seed, from
    weights in its dtype. Those are then in memory, where the files have another.
    """
    config, adapter = saved.config, saved.config.adapter
    assert isinstance(adapter, LoraAdapter)
    model = saved.bare_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        map_weights(model, saved.base, base_dtype(config) if adapter.init in SPLITS else None)
        add_adapter(model, lora_settings(adapter, saved.tokenizer))
    refuse_other_base(saved.position, remembered(model), saved.state)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    saved.require_fit(trained)
    for name, parameter in trained.items():
        put(parameter, saved.weights[name])
    save_result(path, config, model, saved.tokenizer)


def _position(state: Path, folder: Path, meta: dict[str, Any]) -> dict[str, Any] | None:
    """What the state belongs to; of a best model, which does not say it, what the run's newest state does."""
    if "metric" in meta and "position" not in meta:
        newest = newest_state(folder / "checkpoints")
        if newest is None:
            raise CheckpointError(
                f"{state}: which labels its model has, the states in {folder / 'checkpoints'} say, and there is none"
            )
        try:
            meta = strict_json((newest / STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{newest / STATE_NAME}: cannot be read: {error}") from None
    found = meta.get("position")
    return found if isinstance(found, dict) else None


def _refuse_other_model(state: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    if changed := [key for key in now if saved.get(key) != now[key]]:
        raise CheckpointError(
            f"{state}: saved with another {' and another '.join(changed)} than {run_of(state) / 'config.yaml'} now"
            " names: its weights do not belong to it. Put the original back"
        )


def _labels(state: Path, config: RunConfig, position: dict[str, Any]) -> dict[str, Any]:
    """What the labels change in the model's configuration."""
    names, problem = position.get("labels"), position.get("problem")
    if config.task.name == "chat":
        return {}
    if config.task.name == "token_classification" and names:
        return TokenLabels(tuple(names)).config_changes()
    if not names or problem not in PROBLEM_TYPES:
        raise CheckpointError(
            f"{state}: does not say what its labels are; it was saved by another version of glm-train. Resume the run"
            " for a step, and export the state that is saved then"
        )
    return SequenceLabels(tuple(names), problem).config_changes()


def _misfits(parameters: Mapping[str, Tensor], saved: Mapping[str, SavedTensor]) -> list[str]:
    """The first differences, in words."""
    faults = [f"{name} is missing" for name in parameters if name not in saved]
    faults += [f"{name} is too many" for name in saved if name not in parameters]
    faults += [
        f"{name} is {list(saved[name].shape)}, the model's {list(parameter.shape)}"
        for name, parameter in parameters.items()
        if name in saved and tuple(parameter.shape) != tuple(saved[name].shape)
    ]
    return faults[:3]
