"""adapter_config.json, PEFT's description of an adapter: read with suspicion, written with what PEFT needs.

A folder comes from anywhere. Which layers are adapted is read from the tensors, so `target_modules`, which may be a
regular expression of any cost, is not followed. A setting that changes what the tensors mean and is not known here is
refused by name, never passed over.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm_train.adapters.settings import MOST_RANK, SPLITS
from glm_train.checkpoint.safetensors_file import strict_json
from glm_train.errors import CheckpointError
from glm_train.hub import read_text

CONFIG_NAME = "adapter_config.json"
_LITERAL = re.compile(r"[A-Za-z0-9_.]+", re.ASCII)
_MOST_TOKENS, _MOST_ALPHA = 1 << 20, 1e9

# They say where the adapter came from, or how it was trained, or repeat what the tensors show.
_IRRELEVANT = {
    *(
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
    ),
    *(
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
    ),
    *("modules_to_save", "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config"),
    *("target_modules", "task_type", "ensure_weight_tying", "r", "lora_alpha", "lora_dropout", "use_rslora"),
    *("use_dora", "init_lora_weights", "rank_pattern", "alpha_pattern", "trainable_token_indices"),
}
# First values that leave the base as it is: nothing of them matters once the adapter is trained.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", None)


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says that changes the adapter's effect. Names and numbers are checked."""

    r: int
    alpha: float
    dropout: float
    rslora: bool
    dora: bool
    init: str  # "default", or the split of the base's weights that the tensors count from
    task_type: str | None
    token_ids: dict[str, tuple[int, ...]]  # by module; under "" where the file names none: the embedding
    base_name: str | None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def alpha_of(self, name: str) -> float:
        """The alpha of the layer called `name`."""
        for pattern, alpha in self.alpha_pattern.items():
            if name == pattern or name.endswith("." + pattern):
                return alpha
        return self.alpha


def read_adapter_config(folder: str | Path) -> AdapterConfig:
    """Read and check adapter_config.json. Raises CheckpointError naming the file and the setting."""
    path = Path(folder) / CONFIG_NAME
    values = read_json_object(path)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{path}: peft_type is {_shown(kind)}; only LORA adapters are read")
    for key, value in values.items():
        if key not in _IRRELEVANT and value not in (None, False, "none", [], {}):
            raise CheckpointError(
                f"{path}: {_shown(key)} is {_shown(value)}, which changes what the adapter does and is not supported;"
                " merge the adapter with PEFT and use the merged model"
            )
    start = values.get("init_lora_weights", True)
    if not any(start is plain or (start == plain and type(start) is str) for plain in _PLAIN_STARTS):
        start = start.lower() if isinstance(start, str) else start
        if start not in SPLITS:
            raise CheckpointError(
                f"{path}: init_lora_weights is {_shown(start)}, which changed the base in a way that cannot be found"
                " again; save the adapter with PEFT's path_initial_model_for_weight_conversion, or merge it with PEFT"
            )
    task = values.get("task_type")
    name = values.get("base_model_name_or_path")
    return AdapterConfig(
        r=_rank(path, "r", values.get("r", 8)),
        alpha=_number(path, "lora_alpha", values.get("lora_alpha", 8)),
        dropout=_number(path, "lora_dropout", values.get("lora_dropout", 0.0), below=1.0),
        rslora=_flag(path, "use_rslora", values.get("use_rslora", False)),
        dora=_flag(path, "use_dora", values.get("use_dora", False)),
        init=start if start in SPLITS else "default",
        task_type=task if isinstance(task, str) else None,
        token_ids=_token_ids(path, values.get("trainable_token_indices")),
        base_name=name if isinstance(name, str) and len(name) <= 4096 else None,
        rank_pattern={k: _rank(path, k, v) for k, v in _pattern(path, "rank_pattern", values).items()},
        alpha_pattern={k: _number(path, k, v) for k, v in _pattern(path, "alpha_pattern", values).items()},
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """A small JSON object from a foreign folder. Raises CheckpointError; FileNotFoundError becomes one too."""
    try:
        values = strict_json(read_text(path))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; the folder is not an adapter, or not a whole one"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def config_text(values: dict[str, Any]) -> str:
    """The JSON text of PEFT's own settings, the same for the same adapter every time."""
    plain: dict[str, Any] = {
        key: sorted(value) if isinstance(value, set) else value for key, value in values.items()
    }
    alpha = plain["lora_alpha"]
    plain["lora_alpha"] = int(alpha) if float(alpha).is_integer() else alpha
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _rank(path: Path, key: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise CheckpointError(f"{path}: {_shown(key)} is {_shown(value)}, which is no rank")
    return value


def _number(path: Path, key: str, value: object, below: float = _MOST_ALPHA) -> float:
    if type(value) not in (int, float) or not 0 <= value < below:  # type: ignore
        raise CheckpointError(f"{path}: {_shown(key)} is {_shown(value)}, expected a number from 0")
    return float(value)  # type: ignore[arg-type]


def _flag(path: Path, key: str, value: object) -> bool:
    if type(value) is not bool:
        raise CheckpointError(f"{path}: {key} is {_shown(value)}, expected true or false")
    return value


def _pattern(path: Path, key: str, values: dict[str, Any]) -> dict[str, Any]:
    """Numbers by name of a module. PEFT takes regular expressions too; those are refused."""
    pattern = values.get(key) or {}
    if not isinstance(pattern, dict) or len(pattern) > MOST_RANK:
        raise CheckpointError(f"{path}: {key} is {_shown(pattern)}, expected numbers by name")
    for name in pattern:
        if not _LITERAL.fullmatch(name):
            raise CheckpointError(
                f"{path}: {key} names {_shown(name)}; only names are read, no regular expressions"
            )
    return pattern


def _token_ids(path: Path, value: Any) -> dict[str, tuple[int, ...]]:
    by_module: dict[str, Any] = value if isinstance(value, dict) else {"": value} if value else {}
    for name, ids in by_module.items():
        sound = isinstance(ids, list) and 0 < len(ids) <= _MOST_TOKENS
        if not sound or any(type(id_) is not int or id_ < 0 for id_ in ids) or len(set(ids)) < len(ids):
            raise CheckpointError(
                f"{path}: trainable_token_indices of {_shown(name or 'the embedding')} is {_shown(ids)}, expected ids"
            )
    return {name: tuple(ids) for name, ids in by_module.items()}


def _shown(value: object) -> str:
    """A value of a foreign file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
