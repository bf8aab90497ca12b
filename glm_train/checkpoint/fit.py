"""Does a folder's list of tensors fit a module? Which stored tensor fills which parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from glm_train.checkpoint.index import TensorIndex
from glm_train.checkpoint.safetensors_file import StoredTensor
from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig

_BODY = "model."
_HEADS = ("lm_head.", "score.")
# Computed from the config, yet stored by some older writers.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
_SHOWN = 8
_LAYER = re.compile(r"layers\.(\d{1,9})\.", re.ASCII)
_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")  # a tied model may be stored under either name


@dataclass(frozen=True)
class Slot:
    """One tensor of a module and the stored tensor that fills it.

    `names` are all its names in the module (two for a tied head); `source` is the stored tensor's name;
    `copies` are further stored tensors for other names of the same slot.
    """

    names: tuple[str, ...]
    target: Tensor
    source: str
    stored: StoredTensor
    copies: tuple[str, ...] = ()


def match(module: nn.Module, index: TensorIndex) -> list[Slot]:
    """Pair every tensor of the module with a stored one.

    Raises `CheckpointError` listing all that does not fit.
    """
    groups = _shared(module.state_dict(keep_vars=True))
    _refuse_original_layout(index)
    known = {name for names, _ in groups for name in names}
    sources = _sources(known, index.tensors)
    slots: list[Slot] = []
    missing: list[str] = []
    for names, target in groups:
        found = [sources[name] for name in names if name in sources]
        if found:
            slots.append(Slot(names, target, found[0], index.tensors[found[0]], tuple(found[1:])))
        else:
            missing.append(names[0])
    extra = [source for name, source in sources.items() if name not in known]
    shapes = [_other_shape(slot) for slot in slots if slot.stored.shape != tuple(slot.target.shape)]
    kinds = [f"{slot.source} is {slot.stored.dtype}" for slot in slots if not _same_kind(slot)]
    if missing or extra or shapes or kinds:
        raise CheckpointError(_report(module, index, missing, extra, shapes, kinds))
    return slots


def check_sizes(config: GlmConfig, index: TensorIndex) -> None:
    """Compare the sizes that config.json claims with the stored tensors, before a module is built from them:
    ten million layers take minutes and all memory even without their weights.

    Raises `CheckpointError` with the numbers of both sides.
    """
    _refuse_original_layout(index)
    shapes = {name.removeprefix(_BODY): tensor.shape for name, tensor in index.tensors.items()}
    layers = {int(found[1]) for name in shapes if (found := _LAYER.match(name))}
    faults = []
    if len(layers) != config.num_hidden_layers:
        faults.append(
            f"num_hidden_layers is {config.num_hidden_layers}, the weights hold {len(layers)} layers"
        )
    if not any(name in shapes for name in _EMBEDDINGS):
        faults.append("the weights hold no embed_tokens.weight")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    hidden, width = config.hidden_size, config.intermediate_size
    expected = {
        **dict.fromkeys(_EMBEDDINGS, ("vocab_size, hidden_size", (config.vocab_size, hidden))),
        "layers.0.self_attn.q_proj.weight": (
            "num_attention_heads * head_dim, hidden_size",
            (heads * config.head_dim, hidden),
        ),
        "layers.0.self_attn.k_proj.weight": (
            "num_key_value_heads * head_dim, hidden_size",
            (kv_heads * config.head_dim, hidden),
        ),
        "layers.0.mlp.gate_up_proj.weight": ("2 * intermediate_size, hidden_size", (2 * width, hidden)),
        "layers.0.mlp.down_proj.weight": ("hidden_size, intermediate_size", (hidden, width)),
    }
    for name, (meaning, shape) in expected.items():
        if name in shapes and shapes[name] != shape:
            faults.append(f"{name} is {list(shapes[name])}, the model needs {list(shape)} ({meaning})")
    if faults:
        raise CheckpointError(
            f"{index.folder}: config.json and the weights belong to different models.\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


def _refuse_original_layout(index: TensorIndex) -> None:
    if any(name.startswith("transformer.") for name in index.tensors):
        raise CheckpointError(
            f"{index.folder}: weights in the layout of the original remote-code release (transformer.*); "
            "use the model's -hf or 0414 folder, or convert it"
        )


def _shared(state: Mapping[str, Tensor]) -> list[tuple[tuple[str, ...], Tensor]]:
    """The module's tensors, each once, with all its names."""
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return [(tuple(group), state[group[0]]) for group in names.values()]


def _sources(wanted: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """Name in the module -> name in the folder. A head puts `model.` before the body's names; where only one
    of the two sides has a head, that is bridged."""
    names = [name for name in stored if not name.endswith(_COMPUTED)]
    headed = any(name.startswith(_BODY) for name in names)
    wants_head = any(name.startswith(_BODY) for name in wanted)
    if headed and not wants_head:
        return {name.removeprefix(_BODY): name for name in names if not name.startswith(_HEADS)}
    if wants_head and not headed:
        return {name if name.startswith(_HEADS) else _BODY + name: name for name in names}
    return {name: name for name in names}


def _same_kind(slot: Slot) -> bool:
    """Floating to floating, whole to whole; 8-bit floats mean nothing without the scales beside them."""
    stored, target = slot.stored.dtype, slot.target.dtype
    if not target.is_floating_point:
        return stored == target
    return stored.is_floating_point and stored.itemsize > 1


def _other_shape(slot: Slot) -> str:
    return f"{slot.source} is {list(slot.stored.shape)}, the model needs {list(slot.target.shape)}"


def _report(
    module: nn.Module,
    index: TensorIndex,
    missing: list[str],
    extra: list[str],
    shapes: list[str],
    kinds: list[str],
) -> str:
    lines = [f"{index.folder}: the weights do not fit {type(module).__name__}."]
    for title, names in (
        ("missing in the folder", missing),
        ("not in the model", extra),
        ("of another shape", shapes),
        ("not plain floating-point weights (a quantised model?)", kinds),
    ):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            lines.append(f"  {title} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
    if missing == ["lm_head.weight"] and not extra and not shapes:
        lines.append("The folder holds a model without a head; load it as GlmModel.")
    else:
        lines.append(
            "config.json and the weights belong to different models, or the model is of another kind."
        )
    return "\n".join(lines)
