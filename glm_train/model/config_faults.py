"""What can be wrong with the values of a config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from glm_train.errors import nearest

if TYPE_CHECKING:
    from glm_train.model.config import GlmConfig

MODEL_TYPES = ("glm", "glm4")
ACTIVATIONS = ("silu", "swish", "gelu", "relu")
DTYPES = ("float32", "bfloat16", "float16")
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
SWITCHES = (
    "attention_bias",
    "tie_word_embeddings",
    "use_cache",
    "bidirectional",
    "token_classification_bias",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
)
WHOLE_NUMBERS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)


def config_faults(config: GlmConfig, dtypes: Mapping[str, Any], found: Sequence[str] = ()) -> list[str]:
    """Every fault of the values, one line each; empty when the model can be built. `dtypes` is what config.json
    says under both names of the dtype; `found` are faults that reading the values found already."""
    if config.model_type not in MODEL_TYPES:
        cure = (
            "this is the layout of the original release; GlmConfig.from_pretrained and from_dict translate it"
            if config.model_type == "chatglm"
            else f"expected one of {', '.join(MODEL_TYPES)}.{nearest(str(config.model_type), MODEL_TYPES)}"
        )
        return [f"model_type {config.model_type!r}: {cure}"]
    faults = [*_number_faults(config), *_kind_faults(config, dtypes), *_head_faults(config), *found]
    return faults or _relation_faults(config)


def id_faults(values: Mapping[str, Any], vocab_size: int) -> list[str]:
    """What is wrong with the padding and stop ids of a config.json or generation_config.json: each is an id
    from 0 to below `vocab_size` or null, and the stop ids may be a list."""
    stop, pad = values.get("eos_token_id"), values.get("pad_token_id")
    if isinstance(pad, list):
        return [f"pad_token_id: expected an id or null, found {pad!r}"]
    return _ids_faults("pad_token_id", pad, vocab_size) + _ids_faults("eos_token_id", stop, vocab_size)


def _ids_faults(name: str, value: Any, vocab_size: int) -> list[str]:
    if value is None:
        return []
    if value == [] or not isinstance(value, int | list) or isinstance(value, bool):
        return [f"{name}: expected an id, a list of ids or null, found {value!r}"]
    return [
        f"{name}: {id_!r} is not an id below vocab_size {vocab_size}"
        for id_ in (value if isinstance(value, list) else [value])
        if not (type(id_) is int and 0 <= id_ < vocab_size)
    ]


def _number_faults(config: GlmConfig) -> list[str]:
    faults = []
    for name in WHOLE_NUMBERS:
        value = getattr(config, name)
        if name == "head_dim" and value is None:
            continue
        if not is_size(value):
            faults.append(f"{name}: expected a positive whole number, found {value!r}")
    for name in ("rms_norm_eps", "rope_theta", "partial_rotary_factor"):
        value = getattr(config, name)
        if not is_number(value) or value <= 0:
            faults.append(f"{name}: expected a number above 0, found {value!r}")
    for name in ("attention_dropout", "initializer_range"):
        value = getattr(config, name)
        if not is_number(value) or not 0 <= value < 1:
            faults.append(f"{name}: expected a number from 0 to below 1, found {value!r}")
    return faults


def _kind_faults(config: GlmConfig, dtypes: Mapping[str, Any]) -> list[str]:
    """Faults of switches, names and lists, and features that are not there."""
    faults = []
    for name in SWITCHES:
        if not isinstance(getattr(config, name), bool):
            faults.append(f"{name}: expected true or false, found {getattr(config, name)!r}")
    if config.hidden_act not in ACTIVATIONS:
        faults.append(f"hidden_act: expected one of {', '.join(ACTIVATIONS)}, found {config.hidden_act!r}")
    for name, dtype in dtypes.items():
        if dtype is not None and dtype not in DTYPES:
            faults.append(f"{name}: expected one of {', '.join(DTYPES)}, found {dtype!r}")
    names = config.architectures
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        faults.append(f"architectures: expected a list of names, found {names!r}")
    if config.extra.get("quantization_config") is not None:
        faults.append("quantization_config: quantised checkpoints are not read; use the original")
    return faults


def _head_faults(config: GlmConfig) -> list[str]:
    """Faults of what a classification head reads."""
    faults = []
    kind = config.problem_type
    if kind is not None and kind not in PROBLEM_TYPES:
        hint = nearest(str(kind), PROBLEM_TYPES)
        faults.append(f"problem_type: expected one of {', '.join(PROBLEM_TYPES)}, found {kind!r}.{hint}")
    if kind == "single_label_classification" and config.num_labels == 1:
        faults.append(
            "problem_type: single_label_classification needs two labels or more; "
            "with one label it is regression, and yes or no are two labels"
        )
    for name, value in (
        ("classifier_dropout", config.classifier_dropout),
        ("hidden_dropout", config.extra.get("hidden_dropout")),
    ):
        if value is not None and not (is_number(value) and 0 <= value < 1):
            faults.append(f"{name}: expected a number from 0 to below 1 or null, found {value!r}")
    return faults


def read_direction(bidirectional: Any, extra: dict[str, Any]) -> tuple[Any, list[str]]:
    """Whether a token sees those after it, and the faults of the two ways to say so: `bidirectional`, and the
    `is_causal` of transformers 5, which is taken out of `extra`."""
    if "is_causal" not in extra:
        return bidirectional, []
    causal = extra.pop("is_causal")
    if not isinstance(causal, bool):
        return bidirectional, [f"is_causal: expected true or false, found {causal!r}"]
    if causal and bidirectional is True:
        return bidirectional, ["bidirectional and is_causal are both true; remove one"]
    return (not causal if bidirectional is False else bidirectional), []


def _relation_faults(config: GlmConfig) -> list[str]:
    """Faults between values that are each fine alone."""
    faults = []
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads:
        faults.append(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if config.head_dim is None and config.hidden_size % heads:
        faults.append(
            f"head_dim is missing and hidden_size {config.hidden_size} does not divide by {heads} heads"
        )
    head_dim, factor = config.head_dim or config.hidden_size // heads, config.partial_rotary_factor
    rotary = int(head_dim * min(factor, 1))
    if factor > 1 or rotary < 2 or rotary % 2:
        turned = "more than all" if factor > 1 else str(rotary)
        faults.append(
            f"partial_rotary_factor {factor}: rotates {turned} of {head_dim} channels; "
            "expected an even number of at least 2 and at most all"
        )
    ids = {name: getattr(config, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    if isinstance(ids["bos_token_id"], list):
        return [*faults, f"bos_token_id: expected an id or null, found {ids['bos_token_id']!r}"]
    faults += _ids_faults("bos_token_id", ids["bos_token_id"], config.vocab_size)
    return faults + id_faults(ids, config.vocab_size)


def is_size(value: Any) -> TypeGuard[int]:
    """True for a whole number that a width, a count or a length can be."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**53


def is_number(value: Any) -> TypeGuard[int | float]:
    """True for what is a finite float, or a whole number that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def dtype_name(dtype: Any) -> Any:
    """`bfloat16` of `torch.bfloat16`; what is no torch dtype is left as it is."""
    return str(dtype).removeprefix("torch.") if type(dtype).__module__ == "torch" else dtype
