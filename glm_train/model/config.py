"""`GlmConfig`: the shape of a GLM-4 model, read from and written to Hugging Face's config.json.

Both layouts of the rotary settings are read: transformers 4.x keeps `rope_theta` and
`partial_rotary_factor` at the top level, 5.x keeps them in one `rope_parameters` dict (whose values win).
The older `rope_scaling` dict replaces `rope_parameters` where a file has both, as in transformers 5.
A save writes both layouts, so that either generation reads the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glm_train.errors import CheckpointError, ConfigError
from glm_train.hub import resolve_folder
from glm_train.model.config_faults import MODEL_TYPES, config_faults

CONFIG_NAME = "config.json"
# Written by transformers about itself or about code that we never run; a saved folder makes its own.
_NOT_KEPT = ("auto_map", "transformers_version", "_name_or_path")


class GlmConfig:
    """The configuration of a GLM model, with the arguments and defaults of the Hugging Face documentation.

    `model_type` is `glm` (GLM-4-9B, GLM-Edge) or `glm4` (GLM-4-0414, GLM-Z1: two more norms a layer).
    `partial_rotary_factor` is the share of each head that rotary embedding turns.
    Keys this class does not know are kept in `extra` and survive a save.

    Raises `ConfigError`, listing every fault at once.
    """

    def __init__(
        self,
        /,  # config.json may have a key of this name
        vocab_size: int = 151552,
        hidden_size: int = 4096,
        intermediate_size: int = 13696,
        num_hidden_layers: int = 40,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 2,
        head_dim: int | None = 128,
        hidden_act: str = "silu",
        attention_dropout: float = 0.0,
        max_position_embeddings: int = 131072,
        initializer_range: float = 0.02,
        rms_norm_eps: float = 1.5625e-07,
        use_cache: bool = True,
        tie_word_embeddings: bool = False,
        rope_theta: float | None = None,
        pad_token_id: int | None = 151329,
        eos_token_id: int | list[int] | None = None,
        bos_token_id: int | None = None,
        attention_bias: bool = True,
        *,
        model_type: str = "glm",
        partial_rotary_factor: float | None = None,
        rope_parameters: dict[str, Any] | None = None,
        rope_scaling: dict[str, Any] | None = None,
        architectures: list[str] | None = None,
        dtype: str | None = None,
        **extra: Any,
    ) -> None:
        self.model_type, self.architectures = model_type, architectures
        self.vocab_size, self.hidden_size, self.intermediate_size = vocab_size, hidden_size, intermediate_size
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim: int = head_dim  # type: ignore[assignment]  # None until the end of this constructor
        self.hidden_act = hidden_act
        self.attention_dropout = attention_dropout
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.tie_word_embeddings = tie_word_embeddings
        self.pad_token_id = pad_token_id
        self.eos_token_id = [151329, 151336, 151338] if eos_token_id is None else eos_token_id
        self.bos_token_id = bos_token_id
        self.attention_bias = attention_bias
        # transformers 4.x calls it `torch_dtype`
        torch_dtype = extra.pop("torch_dtype", None)
        self.dtype = dtype if dtype is not None else torch_dtype
        rope = _merge_rope(rope_parameters, rope_scaling, rope_theta, partial_rotary_factor)
        self.rope_theta, self.rope_type = rope["rope_theta"], rope["rope_type"]
        self.partial_rotary_factor = rope["partial_rotary_factor"]
        self.extra = {k: v for k, v in extra.items() if k not in _NOT_KEPT}
        faults = config_faults(self, {"dtype": dtype, "torch_dtype": torch_dtype})
        if faults:
            raise ConfigError("\n".join(faults))
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads

    @property
    def rotary_dim(self) -> int:
        """How many of a head's `head_dim` channels are rotated: the first ones."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def sandwich_norms(self) -> bool:
        """True for GLM-4-0414 (`glm4`): attention and MLP outputs are normalised before they are added."""
        return self.model_type == "glm4"

    @property
    def eos_token_ids(self) -> list[int]:
        """The stop ids as a list, whatever form the file has them in."""
        return [self.eos_token_id] if isinstance(self.eos_token_id, int) else list(self.eos_token_id or [])

    @property
    def rope_parameters(self) -> dict[str, Any]:
        """The rotary settings in transformers 5's form."""
        return {
            "rope_type": self.rope_type,
            "rope_theta": self.rope_theta,
            "partial_rotary_factor": self.partial_rotary_factor,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GlmConfig:
        """The configuration in a config.json's dict. Unknown keys are kept."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: the documented keys, both forms of the rotary settings, and `extra`."""
        known = {k: v for k, v in vars(self).items() if k not in ("extra", "rope_type", "dtype")}
        dtypes = {} if self.dtype is None else {"dtype": self.dtype, "torch_dtype": self.dtype}
        return {**self.extra, **known, **dtypes, "rope_parameters": self.rope_parameters}

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, *, revision: str | None = None) -> GlmConfig:
        """Read `config.json` of a local folder or of a model on the hub.

        Raises `CheckpointError` when there is none, or when it does not describe a GLM model.
        """
        folder = resolve_folder(folder_or_hub_id, revision=revision, allow_patterns=[CONFIG_NAME])
        path = folder / CONFIG_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise CheckpointError(
                f"{folder}: no {CONFIG_NAME}. A model folder holds {CONFIG_NAME} and safetensors files."
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
        if "model_type" not in values:
            raise CheckpointError(f"{path}: no 'model_type'; expected one of {', '.join(MODEL_TYPES)}")
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise CheckpointError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made where missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False)
        (Path(folder) / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GlmConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"GlmConfig({', '.join(f'{k}={v!r}' for k, v in self.to_dict().items())})"


def _merge_rope(
    parameters: dict[str, Any] | None,
    scaling: dict[str, Any] | None,
    theta: float | None,
    factor: float | None,
) -> dict[str, Any]:
    """One dict from both layouts, read as transformers 5 reads them.

    A `rope_scaling` that says anything replaces `rope_parameters` whole; a value missing in the dict that
    counts is taken from the top level, else the default. `rope_type` wins over its older name `type`.
    """
    for name, value in (("rope_parameters", parameters), ("rope_scaling", scaling)):
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"{name}: expected an object, found {value!r}")
    merged: dict[str, Any] = {
        "rope_theta": 10000.0 if theta is None else theta,
        "partial_rotary_factor": 0.5 if factor is None else factor,
        **(scaling or parameters or {}),
    }
    old_name = merged.pop("type", "default")
    return {"rope_type": old_name, **merged}
