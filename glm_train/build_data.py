"""Settings become tokenizer and examples: the part of building a run that needs neither torch nor Lightning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.bar import Progress, silent
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.data.encode import usable_cores
from glm_train.data.prepare import prepare_chat
from glm_train.data.sources import files_of, find_sources
from glm_train.data.split import split_salt, split_validation
from glm_train.data.store import ExampleStore
from glm_train.data.weights import weigh
from glm_train.model.config import GlmConfig
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


def build_tokenizer(config: RunConfig) -> tuple[GlmTokenizer, GlmConfig]:
    """The tokenizer, checked to belong to the model's config."""
    model_config = GlmConfig.from_pretrained(config.model.path, **config_changes(config))
    tokenizer = GlmTokenizer.from_pretrained(config.model.path)
    check_vocabulary(model_config, tokenizer)
    return tokenizer, model_config


def config_changes(config: RunConfig) -> dict[str, Any]:
    """What the run changes in the folder's config.json."""
    theta = config.model.rope_theta
    return {} if theta is None else {"rope_theta": theta}


def build_data(
    config: RunConfig, tokenizer: GlmTokenizer, progress: Progress = silent
) -> tuple[ExampleStore, ExampleStore | None]:
    """Training and validation examples, tokenised, from the cache where it has them.

    Training examples stand as often as the weights of their files say.
    """
    train, validation, weights = prepare_data(config, tokenizer, progress)
    return weigh(train, weights, config.seed), validation


def prepare_data(
    config: RunConfig, tokenizer: GlmTokenizer, progress: Progress = silent
) -> tuple[ExampleStore, ExampleStore | None, dict[Path, float]]:
    """Training and validation examples, each once, and the weight of each training file."""
    settings = config.data
    # All files of both are found before the first is read: that one may take an hour.
    streaming = settings.streaming
    sources = find_sources(settings.train, split="train", streaming=streaming)
    held_out = find_sources(settings.validation or (), split="validation", streaming=streaming)
    prepare = partial(
        prepare_chat,
        tokenizer=tokenizer,
        format=settings.format,
        train_on=settings.train_on,
        max_length=settings.max_length,
        truncation=settings.truncation,
        stop_token=settings.stop_token,
        on_error=settings.on_error,
        cache_dir=settings.cache_dir,
        workers=usable_cores() if settings.workers is None else settings.workers,
        progress=progress,
        streaming=streaming,
        salt=split_salt(config.seed) if streaming and settings.validation_fraction is not None else b"",
    )
    weights = {file: source.weight for source in sources for file in source.files}
    train = prepare(files_of(sources))
    if held_out:
        return train, prepare(files_of(held_out)), weights
    if settings.validation_fraction is not None:
        return *split_validation(train, settings.validation_fraction, config.seed), weights
    return train, None, weights
