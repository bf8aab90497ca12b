"""Model folders as the original GLM-4 release has them, made and run without the package.

`original_logits` is a second opinion on what such a folder computes: written from the description of the original's
modules (sequence first, one fused query_key_value, pairs of channels rotated), with nothing of ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import embedding, linear, silu

# The released GLM-4-9B-chat's keys, with the sizes of a toy.
CONFIG: dict[str, Any] = {
    "_name_or_path": "glm-4-9b-chat",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoConfig": "configuration_chatglm.ChatGLMConfig"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "attn_implementation": "sdpa",
    "bias_dropout_fusion": True,
    "ffn_hidden_size": 80,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 48,
    "kv_channels": 16,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "rope_ratio": 500,
    "original_rope": True,
    "padded_vocab_size": 97,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 256,
    "use_cache": True,
    "torch_dtype": "float32",
    "transformers_version": "4.42.4",
    "tie_word_embeddings": False,
    "eos_token_id": [5, 7, 9],
    "pad_token_id": 5,
}


def make_chatglm_folder(
    path: Path,
    *,
    sandwich: bool = False,
    labels: int = 0,
    classifier_bias: float = 0.0,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
    extra_tensors: dict[str, Tensor] | None = None,
    **changes: Any,
) -> Path:
    """Write config.json and weights with random values; `changes` are keys of config.json (None leaves one out)."""
    config = {**CONFIG, "torch_dtype": str(dtype).removeprefix("torch.")}
    if labels:
        config |= {"architectures": ["ChatGLMForSequenceClassification"]}
        config |= {"id2label": {str(n): f"label-{n}" for n in range(labels)}}
        config |= {"label2id": {f"label-{n}": n for n in range(labels)}}
    path.mkdir(parents=True)
    config = {key: value for key, value in {**config, **changes}.items() if value is not None}
    (path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    tensors = original_tensors({**CONFIG, **changes}, sandwich=sandwich, labels=labels)
    if labels:
        tensors["classifier_head.bias"].fill_(classifier_bias)
    tensors = {name: tensor.to(dtype) for name, tensor in (tensors | (extra_tensors or {})).items()}
    rotary = config["kv_channels"] // 2
    tensors["transformer.rotary_pos_emb.inv_freq"] = 1.0 / (
        10000 ** (torch.arange(0, rotary, 2).to(dtype) / rotary)
    )
    write_shards(path, tensors, shards)
    return path


def original_tensors(config: dict[str, Any], *, sandwich: bool, labels: int) -> dict[str, Tensor]:
    """Random tensors in the order of the original's modules. Norms and biases are no ones and zeros."""
    generator = torch.Generator().manual_seed(3)
    hidden, ffn, dim = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    queries, keys = config["num_attention_heads"] * dim, config["multi_query_group_num"] * dim

    def draw(*shape: int, mean: float = 0.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3 + mean

    tensors = {"transformer.embedding.word_embeddings.weight": draw(config["padded_vocab_size"], hidden)}
    for n in range(config["num_layers"]):
        layer: dict[str, Tensor] = {"input_layernorm.weight": draw(hidden, mean=1.0)}
        layer["self_attention.query_key_value.weight"] = draw(queries + 2 * keys, hidden)
        if config["add_qkv_bias"]:
            layer["self_attention.query_key_value.bias"] = draw(queries + 2 * keys)
        layer["self_attention.dense.weight"] = draw(hidden, queries)
        if sandwich:
            layer["post_self_attn_layernorm.weight"] = draw(hidden, mean=1.0)
        layer["post_attention_layernorm.weight"] = draw(hidden, mean=1.0)
        layer["mlp.dense_h_to_4h.weight"] = draw(2 * ffn, hidden)
        layer["mlp.dense_4h_to_h.weight"] = draw(hidden, ffn)
        if sandwich:
            layer["post_mlp_layernorm.weight"] = draw(hidden, mean=1.0)
        tensors |= {f"transformer.encoder.layers.{n}.{name}": tensor for name, tensor in layer.items()}
    tensors["transformer.encoder.final_layernorm.weight"] = draw(hidden, mean=1.0)
    tensors["transformer.output_layer.weight"] = draw(config["padded_vocab_size"], hidden)
    if labels:
        tensors["classifier_head.weight"] = draw(labels, hidden)
        tensors["classifier_head.bias"] = torch.zeros(labels)
    return tensors


def write_shards(path: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """One file, or as many as asked for with an index."""
    if shards == 1:
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        return
    weight_map, size = {}, -(-len(tensors) // shards)
    for n in range(shards):
        names = list(tensors)[n * size : (n + 1) * size]
        file = f"model-{n + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names}, path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder by their stored names."""
    return {name: t for file in sorted(path.glob("*.safetensors")) for name, t in load_file(file).items()}


def original_logits(folder: Path, ids_BT: Tensor) -> Tensor:
    """Logits (B, T, V) as the original's code computes them, or a classifier's scores (B, labels) of the last
    position. In double precision but for the angles, so that the error of a comparison is the other side's."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors = {name.removeprefix("transformer."): t.double() for name, t in read_tensors(folder).items()}
    hidden = embedding(ids_BT, tensors["embedding.word_embeddings.weight"]).transpose(0, 1)  # [s, b, h]
    for n in range(config["num_layers"]):
        prefix = f"encoder.layers.{n}."
        layer = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        hidden = _block(layer, config, hidden)
    hidden = _rms_norm(hidden, tensors["encoder.final_layernorm.weight"], config["layernorm_epsilon"])
    if "classifier_head.weight" in tensors:
        return linear(hidden[-1], tensors["classifier_head.weight"], tensors["classifier_head.bias"])
    return linear(hidden, tensors["output_layer.weight"]).transpose(0, 1)


def _block(layer: dict[str, Tensor], config: dict[str, Any], hidden: Tensor) -> Tensor:
    eps = config["layernorm_epsilon"]

    def norm(name: str, x: Tensor) -> Tensor:
        return _rms_norm(x, layer[f"{name}.weight"], eps) if f"{name}.weight" in layer else x

    attended = _attention(layer, config, norm("input_layernorm", hidden))
    hidden = hidden + norm("post_self_attn_layernorm", attended)
    doubled = linear(norm("post_attention_layernorm", hidden), layer["mlp.dense_h_to_4h.weight"])
    halves = torch.chunk(doubled, 2, dim=-1)
    fed = linear(silu(halves[0]) * halves[1], layer["mlp.dense_4h_to_h.weight"])
    return hidden + norm("post_mlp_layernorm", fed)


def _attention(layer: dict[str, Tensor], config: dict[str, Any], x: Tensor) -> Tensor:
    heads, groups, dim = (
        config[key] for key in ("num_attention_heads", "multi_query_group_num", "kv_channels")
    )
    mixed = linear(
        x, layer["self_attention.query_key_value.weight"], layer.get("self_attention.query_key_value.bias")
    )
    query, key, value = mixed.split([heads * dim, groups * dim, groups * dim], dim=-1)
    length, batch = x.shape[:2]
    query, key, value = (t.view(length, batch, -1, dim) for t in (query, key, value))
    angles = _rope_cache(length, dim // 2, 10000 * config.get("rope_ratio", 1))
    query, key = _rotate(query, angles), _rotate(key, angles)
    repeats = heads // groups
    key, value = (
        t.unsqueeze(-2).expand(-1, -1, -1, repeats, -1).reshape(length, batch, heads, dim)
        for t in (key, value)
    )
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) / dim**0.5
    future = torch.ones(length, length).triu(1).bool()
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    context = torch.einsum("bnst,tbnd->sbnd", weights, value).reshape(length, batch, heads * dim)
    return linear(context, layer["self_attention.dense.weight"])


def _rope_cache(length: int, elements: int, base: float) -> Tensor:
    """(s, elements / 2, 2): cosine and sine of each pair's angle."""
    theta = 1.0 / (base ** (torch.arange(0, elements, 2, dtype=torch.float) / elements))
    angle = torch.outer(torch.arange(length, dtype=torch.float), theta)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).double()


def _rotate(x: Tensor, cache: Tensor) -> Tensor:
    """Turn neighbouring channels of the first half of each head as complex numbers."""
    length, batch, heads, _ = x.shape
    turned, passed = x[..., : cache.shape[-2] * 2], x[..., cache.shape[-2] * 2 :]
    pairs = turned.reshape(length, batch, heads, -1, 2)
    cos, sin = (part.view(length, 1, 1, -1) for part in cache.unbind(-1))
    out = [pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin]
    return torch.cat([torch.stack(out, -1).flatten(3), passed], dim=-1)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
