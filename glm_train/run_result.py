"""What a run leaves: a model folder, or an adapter folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from glm_train.build_data import config_changes
from glm_train.checkpoint.gathered import Tensors, end_sharing, write_together
from glm_train.checkpoint.new_folder import replaced
from glm_train.checkpoint.pretrained import Pretrained, write_generation, write_model
from glm_train.config.schema import LoraAdapter
from glm_train.model.generation import stop_ids
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


def save_result_together(path: Path, config: RunConfig, model: Pretrained, tokenizer: GlmTokenizer) -> None:
    """`save_result` by the first of several processes; all of them call this. Alone, it is the same.

    What is shared out is gathered one tensor at a time: nobody has the whole model. It cannot run any more then.
    The folder is there whole, or not at all. Raises `CheckpointError` in all processes where it cannot be written.
    """
    shares: Mapping[str, Tensor] = end_sharing(model)
    if isinstance(config.adapter, LoraAdapter):
        from glm_train.adapters.record import own_tensors

        shares = own_tensors(model)

    def write(weights: Tensors) -> None:
        with replaced(path) as draft:
            save_result(draft, config, model, tokenizer, weights)

    write_together(shares, write)


def save_result(
    path: Path,
    config: RunConfig,
    model: Pretrained,
    tokenizer: GlmTokenizer,
    weights: Tensors | None = None,
) -> None:
    """The adapter where the run trained one, else the model. `weights` take the place of the model's own."""
    if not isinstance(config.adapter, LoraAdapter):
        save_model(path, model, tokenizer, weights)
        return
    from glm_train.adapters.base_file import head_settings
    from glm_train.adapters.folder import save_adapter

    name = config.model.path
    base = str(Path(name).absolute()) if Path(name).is_dir() else name
    changes = {**head_settings(model), **config_changes(config)}
    save_adapter(model, path, base, config_changes=changes, overwrite=True, tensors=weights)
    tokenizer.save_pretrained(path)
    write_generation(path, with_stops(model, tokenizer))


def save_model(
    path: Path, model: Pretrained, tokenizer: GlmTokenizer, weights: Tensors | None = None
) -> None:
    """A Hugging Face folder with the tokenizer and its chat template; `weights` take the place of the model's own.

    Its generation_config.json lists every token that ends a turn, because all of them were trained: a server that
    knows fewer would let the model run on into the user's part.
    """
    model.generation_config = with_stops(model, tokenizer)
    write_model(model, model if weights is None else weights, path, overwrite=True)
    tokenizer.save_pretrained(path)


def with_stops(model: Pretrained, tokenizer: GlmTokenizer) -> dict[str, Any]:
    """The model's generation_config with every token that ends a turn among its stop ids."""
    known = stop_ids(model)
    stops = [*known, *(i for i in tokenizer.stop_token_ids if i not in known)]
    return {**model.generation_config, "eos_token_id": stops}
