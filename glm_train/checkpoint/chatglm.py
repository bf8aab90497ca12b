"""The tensors of the original release (`transformer.encoder.layers.N...`) under Hugging Face's names, and back.

Only names, shapes and places are handled here; no data is read. The two layouts hold the same numbers: what
differs is that the original keeps query, key and value of a layer in one matrix, their rows below each other:

    query_key_value   rows [0, N*D) are q_proj, the next K*D are k_proj, the last K*D are v_proj

So each Hugging Face tensor is a stored tensor or a range of its rows, and each original one is one Hugging Face
tensor or three, end to end. Gate and up projection lie in one matrix in both, gate first.

Shapes: N heads, K key-value heads, D head dimension, H hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from glm_train.checkpoint.safetensors_file import StoredTensor
from glm_train.errors import CheckpointError

_PREFIX = "transformer."
# Each original name with its parts, in the order of the original's modules; `{}` is the layer.
_BEFORE: dict[str, tuple[str, ...]] = {
    "transformer.embedding.word_embeddings.weight": ("model.embed_tokens.weight",)
}
_LAYER: dict[str, tuple[str, ...]] = {
    "input_layernorm.weight": ("input_layernorm.weight",),
    "self_attention.query_key_value.weight": tuple(f"self_attn.{p}_proj.weight" for p in "qkv"),
    "self_attention.query_key_value.bias": tuple(f"self_attn.{p}_proj.bias" for p in "qkv"),
    "self_attention.dense.weight": ("self_attn.o_proj.weight",),
    "post_self_attn_layernorm.weight": ("post_self_attn_layernorm.weight",),
    "post_attention_layernorm.weight": ("post_attention_layernorm.weight",),
    "mlp.dense_h_to_4h.weight": ("mlp.gate_up_proj.weight",),
    "mlp.dense_4h_to_h.weight": ("mlp.down_proj.weight",),
    "post_mlp_layernorm.weight": ("post_mlp_layernorm.weight",),
}
_AFTER: dict[str, tuple[str, ...]] = {
    "transformer.encoder.final_layernorm.weight": ("model.norm.weight",),
    "transformer.output_layer.weight": ("lm_head.weight",),
    "classifier_head.weight": ("score.weight",),
    "classifier_head.bias": ("score.bias",),
}
# In the order of our modules, which is the order of transformers' shards.
_LAYER_ORDER = (
    *(f"self_attn.{p}_proj.{kind}" for p in "qkv" for kind in ("weight", "bias")),
    "self_attn.o_proj.weight",
    "mlp.gate_up_proj.weight",
    "mlp.down_proj.weight",
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "post_self_attn_layernorm.weight",
    "post_mlp_layernorm.weight",
)
INVERSE_FREQUENCIES = "transformer.rotary_pos_emb.inv_freq"
_ORIGINAL_LAYER = re.compile(r"transformer\.encoder\.layers\.(0|[1-9]\d{0,8})\.(.+)", re.ASCII)
_OUR_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,8})\.(.+)", re.ASCII)
_SHOWN = 5
_OTHER_MODELS = {
    "transformer.vision.": "an image model (GLM-4V); only GLM's language models are supported",
    "transformer.prefix_encoder.": "a P-tuning prefix, which is no part of GLM",
    "transformer.layers.": "the first ChatGLM-6B, which is another architecture",
}


def is_original(names: Iterable[str]) -> bool:
    """Whether these are the names of a model in the original layout."""
    return any(name.startswith(_PREFIX) for name in names)


def to_hugging_face(folder: Path, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of an original folder under Hugging Face's names, in the order of our modules.

    The table of inverse frequencies is left out: it follows from the config.
    Raises `CheckpointError` naming each tensor that has no place in GLM-4 or whose rows cannot be divided.
    """
    result: dict[str, StoredTensor] = {}
    unknown = []
    for name, stored in tensors.items():
        if name == INVERSE_FREQUENCIES:
            continue
        parts = _parts(name)
        if parts is None:
            unknown.append(name)
        elif len(parts) == 1:
            result[parts[0]] = stored
        else:
            rows = _divide(folder, name, tensors)
            for part, (start, stop) in zip(parts, rows, strict=True):
                shape = (stop - start, *stored.shape[1:])
                result[part] = replace(stored, shape=shape, rows=(start, stop))
    if unknown:
        raise CheckpointError(_no_place(folder, unknown))
    return in_our_order(result)


def to_original(
    folder: Path, tensors: Mapping[str, StoredTensor], *, tied: bool
) -> dict[str, tuple[StoredTensor, ...]]:
    """The original's tensors, in the order of its modules, each with the tensors whose rows it is made of.

    `tensors` are a Hugging Face folder's, with a head: the original has no model without one. Where it is `tied` and
    not stored, the embedding is given for it too: the original's code ties nothing.
    Raises `CheckpointError` naming what has no place in the original or lacks its partners.
    """
    tensors = dict(tensors)
    if tied and "model.embed_tokens.weight" in tensors:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    if "lm_head.weight" not in tensors and "score.weight" not in tensors:
        raise CheckpointError(f"{folder}: a model without a head, which the original layout cannot hold")
    layers = sorted({int(found[1]) for name in tensors if (found := _OUR_LAYER.fullmatch(name))})
    names = {**_BEFORE}
    for n in layers:
        prefix, ours = f"transformer.encoder.layers.{n}.", f"model.layers.{n}."
        names |= {prefix + name: tuple(ours + part for part in parts) for name, parts in _LAYER.items()}
    names |= _AFTER
    result: dict[str, tuple[StoredTensor, ...]] = {}
    for name, parts in names.items():
        pieces = [tensors.pop(part) for part in parts if part in tensors]
        if len(pieces) not in (0, len(parts)) or len({(p.dtype, p.shape[1:]) for p in pieces}) > 1:
            raise CheckpointError(
                f"{folder}: {', '.join(parts)} cannot be joined: the original keeps them in one tensor, so all "
                "of them are needed, in one dtype and of one width"
            )
        if pieces:
            result[name] = tuple(pieces)
    if tensors:
        raise CheckpointError(_no_place(folder, list(tensors)))
    return result


def in_our_order(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Tensors of a Hugging Face folder in the order of our modules; names that these lack come last."""
    return {name: tensors[name] for name in sorted(tensors, key=_place)}


def _place(name: str) -> tuple[int, int, int, str]:
    layer = _OUR_LAYER.fullmatch(name)
    if layer:
        known = layer[2] in _LAYER_ORDER
        return 1, int(layer[1]), _LAYER_ORDER.index(layer[2]) if known else len(_LAYER_ORDER), name
    outside = ("model.norm.weight", "lm_head.weight", "score.weight", "score.bias")
    if name == "model.embed_tokens.weight":
        return 0, 0, 0, name
    return 2, 0, outside.index(name) if name in outside else len(outside), name


def _parts(name: str) -> tuple[str, ...] | None:
    """The Hugging Face names of an original tensor: one, or those of query, key and value. None: no such tensor."""
    layer = _ORIGINAL_LAYER.fullmatch(name)
    if layer is None:
        return (_BEFORE | _AFTER).get(name)
    parts = _LAYER.get(layer[2])
    return parts and tuple(f"model.layers.{layer[1]}.{part}" for part in parts)


def _divide(folder: Path, name: str, tensors: Mapping[str, StoredTensor]) -> list[tuple[int, int]]:
    """The rows of query, key and value. The output projection (H, N*D) of the layer tells how many are the query's."""
    dense = tensors.get(f"{name.rsplit('.', 2)[0]}.dense.weight")
    rows = tensors[name].shape[0] if tensors[name].shape else 0
    queries = dense.shape[1] if dense is not None and len(dense.shape) == 2 else 0
    if not 0 < queries < rows or (rows - queries) % 2:
        beside = "no dense.weight beside it" if dense is None else f"dense.weight {list(dense.shape)}"
        raise CheckpointError(
            f"{folder}: {name} {list(tensors[name].shape)}, with {beside}, cannot be divided into query, key and value"
        )
    middle = (rows + queries) // 2
    return [(0, queries), (queries, middle), (middle, rows)]


def _no_place(folder: Path, names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    for prefix, what in _OTHER_MODELS.items():
        if any(name.startswith(prefix) for name in names):
            return f"{folder}: the weights hold {what} ({shown})"
    return f"{folder}: {len(names)} tensor(s) have no place in a GLM-4 of the other layout: {shown}"
