"""What a run leaves: a model folder, or an adapter folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.build_data import config_changes
from glm_train.checkpoint.pretrained import Pretrained, write_generation
from glm_train.config.schema import LoraAdapter
from glm_train.model.generation import stop_ids
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


def save_result(path: Path, config: RunConfig, model: Pretrained, tokenizer: GlmTokenizer) -> None:
    """The adapter where the run trained one, else the model."""
    if isinstance(config.adapter, LoraAdapter):
        from glm_train.adapters.base_file import head_settings
        from glm_train.adapters.folder import save_adapter

        name = config.model.path
        base = str(Path(name).absolute()) if Path(name).is_dir() else name
        changes = {**head_settings(model), **config_changes(config)}
        save_adapter(model, path, base, config_changes=changes, overwrite=True)
        tokenizer.save_pretrained(path)
        write_generation(path, with_stops(model, tokenizer))
        return
    save_model(path, model, tokenizer)


def save_model(path: Path, model: Pretrained, tokenizer: GlmTokenizer) -> None:
    """A Hugging Face folder with the tokenizer and its chat template.

    Its generation_config.json lists every token that ends a turn, because all of them were trained: a server that
    knows fewer would let the model run on into the user's part.
    """
    model.generation_config = with_stops(model, tokenizer)
    model.save_pretrained(path, overwrite=True)  # of this run, where it was killed while it wrote
    tokenizer.save_pretrained(path)


def with_stops(model: Pretrained, tokenizer: GlmTokenizer) -> dict[str, Any]:
    """The model's generation_config with every token that ends a turn among its stop ids."""
    known = stop_ids(model)
    stops = [*known, *(i for i in tokenizer.stop_token_ids if i not in known)]
    return {**model.generation_config, "eos_token_id": stops}
