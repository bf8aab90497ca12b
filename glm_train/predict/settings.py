"""What a prediction or an evaluation reads of its run's settings, with the command line's `key=value` on top.

A model folder that no run left has the schema's defaults instead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from glm_train.adapters.opened import base_of, config_of
from glm_train.config.compose import compose
from glm_train.config.data_settings import DATA_OF
from glm_train.config.faults import Faults, dotted
from glm_train.config.overrides import parse_overrides
from glm_train.errors import ConfigError
from glm_train.hub import resolve_folder
from glm_train.model.config import GlmConfig
from glm_train.run_folder import find_model
from glm_train.trained_model import task_of

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

_DEVICE = ("trainer.accelerator", "trainer.precision")
_LENGTH = ("data.max_length", *_DEVICE)
_TEXTS = ("data.text_key", "data.pair_key", "data.truncation", *_LENGTH)
_WORDS = ("data.format", "data.token_column", "data.separator", "data.overlap", *_LENGTH)
_LABELLED = ("data.validation", "data.on_error", "data.workers", "data.cache_dir")
#: The keys that each command reads, by task.
PREDICT = {
    "chat": ("data.format", *_LENGTH),
    "sequence_classification": _TEXTS,
    "token_classification": _WORDS,
}
EVALUATE = {
    "chat": (*_LABELLED, "data.format", "data.train_on", "data.stop_token", "data.truncation", *_LENGTH),
    "sequence_classification": (*_LABELLED, "data.label_key", "data.label_separator", *_TEXTS),
    "token_classification": (*_LABELLED, "data.tag_column", "data.scheme", "data.label_pieces", *_WORDS),
}
# Of training alone, and in the way of other values here: where a run's examples come from, and how it batches them.
_NEUTRAL = ("batch.tokens=null", "batch.documents=null", "data.streaming=false", "trainer.accelerator=auto")
_NO_SPLIT = ("data.validation_fraction=null", "trainer.validate_every=null", "trainer.patience=null")


@dataclass(frozen=True)
class Chosen:
    """A model, not loaded yet, and what to do it with. `given` are the keys that the command line sets."""

    folder: Path
    model_config: GlmConfig
    task: str
    config: RunConfig
    of_run: bool
    given: frozenset[str]


def choose(run_or_model: str, overrides: Sequence[str], *, evaluate: bool = False) -> Chosen:
    """The settings for a run folder, a model folder or a hub id.

    Raises:
        CheckpointError: there is no such model. ConfigError: a setting is wrong, or has no effect here.
    """
    folder = resolve_folder(find_model(run_or_model))
    task, model_config = _read_model(folder)
    of_run = folder.name == "model" and (folder.parent / "config.yaml").is_file()
    # What stands later wins, so the user's own come last.
    words = [*_NEUTRAL, *((*_NO_SPLIT, "trainer.result=last") if evaluate else ()), *overrides]
    recipe = str(folder.parent / "config.yaml")
    config = compose(recipe, words) if of_run else _defaults(folder, task, model_config.bidirectional, words)
    if config.task.name != task:
        raise ConfigError(
            f"{recipe}: the run's task is {config.task.name}, and its model is one of {task}."
            " Give the model folder of another run, or copy this one out of its run."
        )
    given = _given(
        overrides, (EVALUATE if evaluate else PREDICT)[task], "evaluate" if evaluate else "predict"
    )
    return Chosen(folder, model_config, task, config, of_run, given)


def _read_model(folder: Path) -> tuple[str, GlmConfig]:
    """The task and the config of a model, an adapter's on its base, before anything large is read."""
    config = config_of(folder, base_of(folder))
    return task_of(config.architectures, folder), config


def _defaults(folder: Path, task: str, bidirectional: bool, overrides: Sequence[str]) -> RunConfig:
    """The schema's defaults, as a recipe says them that only names the model."""
    recipe = {
        "defaults": ["base", {"override task": task}, {"override data": DATA_OF[task]}, "_self_"],
        "model": {"path": str(folder), "bidirectional": bidirectional},
        "data": {"train": "none"},
        "trainer": {
            "max_steps": 1,
            "precision": "bf16-mixed" if torch.cuda.is_available() else "fp32",
        },
    }
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        return compose(str(path), overrides)


def _given(overrides: Sequence[str], allowed: Sequence[str], command: str) -> frozenset[str]:
    """The keys of the overrides; refuses those that the command does not read."""
    line = parse_overrides(overrides, Faults())  # `compose` has told the faults
    keys = [*line.picks, *(dotted(setting.path) for setting in line.settings)]
    if other := [key for key in keys if key not in allowed]:
        raise ConfigError(
            f"{other[0]}: `{command}` does not read it. It reads {', '.join(sorted(allowed))} for this model."
        )
    return frozenset(keys)
