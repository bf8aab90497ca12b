"""The shapes of the released GLM-4 checkpoints, under their names on the hub without the organisation.

Each entry says what differs from `GlmConfig()`. A checkpoint that was released in the remote-code layout alone
(`glm-4-9b`, `-chat`, `-chat-1m`) has its values in Hugging Face's form, with `rope_theta` = 10000 * `rope_ratio`.

A comment marks what is taken from a sister checkpoint or a paper, not read in the checkpoint's own config.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glm_train.errors import ConfigError, nearest

if TYPE_CHECKING:
    from glm_train.model.config import GlmConfig

_9B_0414 = {"model_type": "glm4", "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}
_32B_0414 = {
    **_9B_0414,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "num_hidden_layers": 61,
    "num_attention_heads": 48,
    "attention_bias": False,
}
_EDGE = {
    "vocab_size": 59264,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 1.0,
    "attention_bias": False,
    "pad_token_id": 59246,
    "eos_token_id": [59246, 59253, 59255],
}

PRESETS: dict[str, dict[str, Any]] = {
    # The base model's own file was not seen: the context is its model card's, and without rope_ratio theta is 10000.
    "glm-4-9b": {"max_position_embeddings": 8192},
    "glm-4-9b-hf": {"max_position_embeddings": 8192},  # not seen: as glm-4-9b
    "glm-4-9b-chat": {"rope_theta": 5e6},  # rope_ratio 500
    # As released: the converter lost rope_ratio, so this theta is not the one the weights were trained with.
    "glm-4-9b-chat-hf": {"rope_theta": 10000.0},
    "glm-4-9b-chat-1m": {  # rope_ratio 10000
        "rope_theta": 1e8,
        "max_position_embeddings": 1048576,
        "num_key_value_heads": 4,
    },
    # The stop ids of the 0414 models were not seen in their files; their tokenizer is that of GLM-4-9B.
    "GLM-4-9B-0414": _9B_0414,
    "GLM-Z1-9B-0414": _9B_0414,
    "GLM-4-32B-0414": _32B_0414,
    "GLM-4-32B-Base-0414": _32B_0414,
    "GLM-Z1-32B-0414": _32B_0414,
    "glm-edge-1.5b-chat": {
        **_EDGE,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
    # Not seen: read from the language model of glm-edge-v-5b, with the context of glm-edge-1.5b-chat.
    "glm-edge-4b-chat": {
        **_EDGE,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_attention_heads": 24,
        "num_key_value_heads": 6,
    },
}


def preset_values(name: str) -> dict[str, Any]:
    """The entry of `PRESETS` for a name in any case, with or without its organisation. Raises `ConfigError`."""
    wanted = str(name).rsplit("/", 1)[-1].lower()
    by_name = {known.lower(): known for known in PRESETS}
    if wanted not in by_name:
        hint = nearest(wanted, by_name) or f" There are {', '.join(PRESETS)}."
        raise ConfigError(f"preset {name!r}: no such checkpoint is known.{hint}")
    return PRESETS[by_name[wanted]]


def suspicious_theta(config: GlmConfig) -> str | None:
    """A warning where the base of the rotary angles looks lost, else None.

    transformers' converter from the remote-code layout ignores `rope_ratio`, so that a converted GLM-4-9B-Chat says
    10000 in place of 5,000,000 (1M context: 100,000,000). Released folders say so too.
    """
    long = config.max_position_embeddings >= 131072
    if config.model_type != "glm" or config.rope_theta != 10000 or not long:
        return None
    million = config.max_position_embeddings >= 1048576
    theta, name = ("1e8", "GLM-4-9B-Chat-1M") if million else ("5e6", "GLM-4-9B-Chat")
    return (
        f"rope_theta is 10000 although the context is {config.max_position_embeddings} tokens: transformers' converter "
        f"loses the original's rope_ratio, and {name} was trained with {theta}. For a model that comes from it, set "
        f"model.rope_theta={theta} (in Python: rope_theta={theta} in from_pretrained)."
    )
