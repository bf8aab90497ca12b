"""Does a config.json describe the stored weights? Asked before a module is built from its numbers."""

from __future__ import annotations

import re

from glm_train.checkpoint.index import TensorIndex
from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig

MOST_LAYERS = 1024  # GLM-4-32B has 61
_BODY = "model."
_LAYER = re.compile(r"layers\.(\d{1,9})\.", re.ASCII)
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")  # a tied model may be stored under either name
Shape = tuple[int, ...]


def check_sizes(config: GlmConfig, index: TensorIndex) -> None:
    """Compare the sizes that config.json claims with the stored tensors.

    Ten million layers take minutes and all memory even without their weights, so this comes before a module is
    built. Raises `CheckpointError` with the numbers of both sides.
    """
    shapes = {name.removeprefix(_BODY): tensor.shape for name, tensor in index.tensors.items()}
    faults = [*_layer_faults(config, shapes), *_shape_faults(config, shapes)]
    if faults:
        raise CheckpointError(
            f"{index.folder}: config.json and the weights belong to different models.\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


def _layer_faults(config: GlmConfig, shapes: dict[str, Shape]) -> list[str]:
    layers = {int(found[1]) for name in shapes if (found := _LAYER.match(name))}
    if len(layers) != config.num_hidden_layers:
        return [f"num_hidden_layers is {config.num_hidden_layers}, the weights hold {len(layers)} layers"]
    if len(layers) > MOST_LAYERS:
        return [f"num_hidden_layers is {len(layers)}; at most {MOST_LAYERS} are built"]
    return []


def _shape_faults(config: GlmConfig, shapes: dict[str, Shape]) -> list[str]:
    """One layer stands for all: a folder whose layers differ is refused later, when each tensor has its place."""
    hidden, width = config.hidden_size, config.intermediate_size
    queries, keys = (
        heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
    )
    embedding = ("vocab_size, hidden_size", (config.vocab_size, hidden))
    layer = {
        "self_attn.q_proj": ("num_attention_heads * head_dim, hidden_size", (queries, hidden)),
        "self_attn.k_proj": ("num_key_value_heads * head_dim, hidden_size", (keys, hidden)),
        "mlp.gate_up_proj": ("2 * intermediate_size, hidden_size", (2 * width, hidden)),
        "mlp.down_proj": ("hidden_size, intermediate_size", (hidden, width)),
    }
    expected = {name: embedding for name in _EMBEDDINGS if name in shapes} or {_EMBEDDINGS[0]: embedding}
    expected |= {f"layers.0.{name}.weight": sizes for name, sizes in layer.items()}
    faults = []
    for name, (meaning, shape) in expected.items():
        if name not in shapes:
            faults.append(f"the weights hold no {name}")
        elif shapes[name] != shape:
            faults.append(f"{name} is {list(shapes[name])}, the model needs {list(shape)} ({meaning})")
    return faults
