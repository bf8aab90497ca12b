"""Finding and parsing config.json, before anything in it is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError
from glm_train.hub import read_text, resolve_folder
from glm_train.model.config_faults import MODEL_TYPES

CONFIG_NAME = "config.json"
# What transformers writes about itself, or takes as the name of code to find and run. Neither has a meaning here, and
# a saved folder does not pass it on.
NOT_KEPT = (
    "auto_map",
    "custom_generate",
    "custom_pipelines",
    "experts_implementation",
    "transformers_version",
    "trust_remote_code",
)


def is_kept(key: str, value: object = None) -> bool:
    """Whether a key that `GlmConfig` does not know survives a save. Keys with an underscore are private to others, and
    an `attn_implementation` with a slash names a hub's kernel, which transformers would fetch and run."""
    kernel = key == "attn_implementation" and value not in (
        "eager",
        "sdpa",
        "flash_attention_2",
        "flex_attention",
    )
    return key not in NOT_KEPT and not key.startswith("_") and not kernel


def read_config_file(folder_or_hub_id: str | Path, revision: str | None) -> tuple[Path, dict[str, Any]]:
    """Where config.json lies, and the object in it, which names its model_type. Raises `CheckpointError`."""
    folder = resolve_folder(folder_or_hub_id, revision=revision, allow_patterns=[CONFIG_NAME])
    path = folder / CONFIG_NAME
    try:
        values = json.loads(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no {CONFIG_NAME}. A model folder holds {CONFIG_NAME} and safetensors files."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    if "model_type" not in values:
        raise CheckpointError(f"{path}: no 'model_type'; expected one of {', '.join(MODEL_TYPES)}")
    return path, values
