"""The config.json of the original release (`model_type: chatglm`), read as and written from Hugging Face's.

The original's names are its remote code's (configuration_chatglm.py of GLM-4-9B); that code is never run. What our
model takes for granted and the original leaves open is checked: another value is refused by name, since it would
compute something else. Keys of neither kind pass through under their own names.

The base of the rotary angles is 10000 * rope_ratio. transformers' own converter loses rope_ratio, which turns
GLM-4-9B-chat (rope_ratio 500) into a model of theta 10000.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.errors import ConfigError

if TYPE_CHECKING:
    from glm_train.model.config import GlmConfig

MODEL_TYPE = "chatglm"
THETA = 10000.0
# The two further norms of a GLM-4-0414 layer, as the weights name them; config.json names them the same.
SANDWICH_NORMS = ("post_self_attn_layernorm", "post_mlp_layernorm")

_SIZES = {
    "padded_vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "multi_query_group_num": "num_key_value_heads",
    "kv_channels": "head_dim",
    "seq_length": "max_position_embeddings",
}
_SAME = ("attention_dropout", "use_cache", "eos_token_id", "pad_token_id", "tie_word_embeddings")
# What must hold for the weights to mean what our model computes, and what the original takes where a file is silent.
_RELIED_ON: dict[str, tuple[Any, Any]] = {
    "add_bias_linear": (False, False),
    "apply_residual_connection_post_layernorm": (False, False),
    "fp32_residual_connection": (False, False),
    "hidden_dropout": (0.0, 0.0),
    "multi_query_attention": (True, False),
    "original_rope": (True, True),
    "post_layer_norm": (True, True),
    "rmsnorm": (True, True),
}
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "interleaved_qkv": (None, False),
    "pre_seq_len": (None, 0),
    "quantization_bit": (None, 0),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
}
# Keys that `to_hugging_face` and `from_hugging_face` write themselves, on top of sizes and switches.
_REPLACED = (
    "add_qkv_bias",
    "architectures",
    "attention_bias",
    "hidden_act",
    "layernorm_epsilon",
    "model_type",
    "partial_rotary_factor",
    "rms_norm_eps",
    "rope_parameters",
    "rope_ratio",
    "rope_scaling",
    "rope_theta",
)
_WHY = {
    "multi_query_attention": "without it, the original stores query, key and value head by head",
    "pre_seq_len": "a P-tuning prefix is no part of GLM",
    "quantization_bit": "quantised checkpoints are not read; use the original",
    "rope_scaling": "the original has no rotary scaling; convert the folder first, then set it",
    "rope_parameters": "the original has no such key; its rotary base is 10000 * rope_ratio",
}
_TASKS = ("ForSequenceClassification", "ForTokenClassification")
_CHATGLM3_VOCABULARY = 65024
_PEEK = 4 * 2**20  # no list of a model's tensors is longer


def to_hugging_face(values: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The original's config.json as Hugging Face's: the arguments of `GlmConfig`.

    `folder`, where given, is searched for the weights of GLM-4-0414's further norms, which the original's config
    may not mention; they make the `model_type` `glm4`.
    Raises `ConfigError`: a model that is no GLM-4, or every fault at once.
    """
    other = _other_model(values)
    if other:
        raise ConfigError(f"model_type 'chatglm': {other}")
    faults = [*_size_faults(values), *_setting_faults(values)]
    if faults:
        raise ConfigError("\n".join(faults))
    sandwich = any(values.get(name) for name in SANDWICH_NORMS) or _holds_sandwich_norms(folder)
    known = {*_SIZES, *_SIZES.values(), *_SAME, *_RELIED_ON, *SANDWICH_NORMS, *_REPLACED}
    result = {key: value for key, value in values.items() if key not in known}
    result |= {"model_type": "glm4" if sandwich else "glm"}
    result |= {theirs: values[name] for name, theirs in _SIZES.items()}
    result |= {"pad_token_id": None, "tie_word_embeddings": False}
    result |= {name: values[name] for name in _SAME if name in values}
    result |= {
        "attention_bias": values.get("add_qkv_bias", False),
        "hidden_act": "silu",
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": values["layernorm_epsilon"],
        "rope_theta": THETA * values.get("rope_ratio", 1),
    }
    if values.get("architectures"):
        result["architectures"] = [_architecture(values["architectures"], "Glm4" if sandwich else "Glm")]
    return result


def from_hugging_face(config: GlmConfig) -> dict[str, Any]:
    """The original's config.json for a model. Keys that the original has no name for keep theirs, where they say
    anything. `auto_map` is not written: the remote code that it names is not ours to ship.

    Raises `ConfigError`: what the original's code cannot compute, all of it at once.
    """
    faults = _unsayable(config)
    if faults:
        raise ConfigError("\n".join(faults))
    values, usual = config.to_dict(), type(config)().to_dict()
    known = {*_SIZES.values(), *_SAME, *_RELIED_ON, *_REPLACED, "dtype", "torch_dtype"}
    result = {k: v for k, v in values.items() if k not in known and (k in config.extra or v != usual.get(k))}
    result |= {name: values[theirs] for name, theirs in _SIZES.items()}
    result |= {name: values[name] for name in _SAME}
    result |= {name: wanted for name, (wanted, _) in _RELIED_ON.items()}
    result |= {
        "model_type": MODEL_TYPE,
        "architectures": [_architecture(config.architectures or [], "ChatGLM")],
        "add_qkv_bias": config.attention_bias,
        "layernorm_epsilon": config.rms_norm_eps,
        "num_hidden_layers": config.num_hidden_layers,
        "rope_ratio": _ratio(config.rope_theta),
    }
    if config.sandwich_norms:
        result |= dict.fromkeys(SANDWICH_NORMS, True)
    return result if config.dtype is None else {**result, "torch_dtype": config.dtype}


def _other_model(values: dict[str, Any]) -> str | None:
    """Which other model of this `model_type` the file describes, where it does."""
    vocabulary, stop = values.get("padded_vocab_size"), values.get("eos_token_id")
    if "position_encoding_2d" in values or "inner_hidden_size" in values:
        return "the first ChatGLM-6B, which is another architecture"
    if values.get("vision_config") is not None or values.get("boi_token_id") is not None:
        return "GLM-4V, which reads images; only GLM's language models are supported"
    grown = isinstance(vocabulary, int) and 64000 <= vocabulary < 70000 and stop == 2
    if vocabulary == _CHATGLM3_VOCABULARY or grown:
        return (
            f"ChatGLM2 or ChatGLM3 (padded_vocab_size {vocabulary}), not GLM-4. Its tokenizer and its control "
            "tokens are others, and rope_ratio means two things among its releases; it is not supported"
        )
    return None


def _size_faults(values: dict[str, Any]) -> list[str]:
    """Missing sizes, and those that are none. The original's defaults are another model's, so none is taken."""
    needed = [*_SIZES, "layernorm_epsilon"]
    missing = [name for name in needed if name not in values]
    faults = (
        [f"missing: {', '.join(missing)}; a config.json of the original layout has them"] if missing else []
    )
    for name in _SIZES:
        value = values.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            faults.append(f"{name}: expected a positive whole number, found {value!r}")
    for name in ("layernorm_epsilon", "rope_ratio"):
        value = values.get(name, 1)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
            faults.append(f"{name}: expected a number above 0 and below 1e30, found {value!r}")
    return faults


def _setting_faults(values: dict[str, Any]) -> list[str]:
    faults = []
    for name, (wanted, silent) in _RELIED_ON.items():
        value = values.get(name, silent)
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            found = repr(value) if name in values else f"nothing, which the original takes for {silent!r}"
            faults.append(f"{name}: GLM-4 has {wanted!r}, found {found}{_why(name)}")
    for name, harmless in _WITHOUT_EFFECT.items():
        if values.get(name) not in harmless:
            faults.append(f"{name}: not supported, found {values[name]!r}{_why(name)}")
    norms = {name: values.get(name, False) for name in SANDWICH_NORMS}
    if any(not isinstance(value, bool) for value in norms.values()) or len(set(norms.values())) > 1:
        faults.append(f"{' and '.join(norms)}: expected true for both or for none, found {norms}")
    if not isinstance(values.get("add_qkv_bias", False), bool):
        faults.append(f"add_qkv_bias: expected true or false, found {values['add_qkv_bias']!r}")
    names = values.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        faults.append(f"architectures: expected a list of names, found {names!r}")
    return faults


def _why(name: str) -> str:
    return f" ({_WHY[name]})" if name in _WHY else ""


def _holds_sandwich_norms(folder: Path | None) -> bool:
    """Whether the folder's list of tensors names GLM-4-0414's further norms. The list is checked when it is read."""
    for name in ("model.safetensors", "model.safetensors.index.json") if folder else ():
        path = Path(folder or "") / name
        try:
            if path.is_file():
                with path.open("rb") as file:
                    return f".{SANDWICH_NORMS[0]}.weight".encode() in file.read(_PEEK)
        except OSError:
            return False
    return False


def _architecture(names: list[str], family: str) -> str:
    """The class of the same task in another family: `Glm`, `Glm4` or `ChatGLM`."""
    task = next((task for task in _TASKS if any(name.endswith(task) for name in names)), None)
    if family == "ChatGLM":
        return f"{family}{task}" if task else "ChatGLMModel"  # the release calls its causal LM so
    return f"{family}{task or 'ForCausalLM'}"


def _ratio(theta: float) -> float:
    """The rope_ratio of a rotary base; a whole number where it is one, as in the releases."""
    near = theta / THETA  # rounded, so that a neighbour may be the one that gives the base again
    beside = (near, math.nextafter(near, 0), math.nextafter(near, math.inf))
    ratio = next((ratio for ratio in beside if THETA * ratio == theta), near)
    return int(ratio) if ratio == int(ratio) else ratio


def _unsayable(config: GlmConfig) -> list[str]:
    """What the original's code has no switch for."""
    faults = []
    if config.rope_type != "default":
        faults.append(f"rope_type {config.rope_type!r}: the original layout has no rotary scaling")
    if config.rotary_dim != config.head_dim // 2:
        faults.append(
            f"partial_rotary_factor {config.partial_rotary_factor}: the original's code rotates half of each "
            "head; GLM-Edge and other models that rotate more or less have no original layout"
        )
    elif THETA * _ratio(config.rope_theta) != config.rope_theta:
        faults.append(f"rope_theta {config.rope_theta}: 10000 * rope_ratio cannot give it exactly; round it")
    if config.hidden_act not in ("silu", "swish"):
        faults.append(f"hidden_act {config.hidden_act!r}: the original layout has only silu")
    if getattr(config, "bidirectional", False):
        faults.append("bidirectional: the original's code sees only what comes before")
    return faults
