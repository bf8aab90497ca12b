"""Do two folders hold the same model? Every tensor is compared, and both models run on the same tokens.

Loading a model to look at one forward pass takes all its memory. Here embedding and head are loaded, and each layer
just before it runs, into one layer's memory; what comes out is bit for bit what the whole model gives.

Shapes: B batch, T tokens, V vocabulary (or labels).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.bar import Progress
from glm_train.checkpoint import pretrained
from glm_train.checkpoint.fit import Slot
from glm_train.checkpoint.index import TensorIndex, read_index
from glm_train.checkpoint.safetensors_file import StoredTensor
from glm_train.checkpoint.weights import fill, fitting_slots, read_tensor
from glm_train.errors import CheckFailed, CheckpointError
from glm_train.model.config import GlmConfig

TOKENS = 24
_LAYER = re.compile(r"(?:model\.)?layers\.(\d+)\.", re.ASCII)


@dataclass(frozen=True)
class Comparison:
    """How two models compare: `tensors` are equal bit for bit; the outputs for `tokens` tokens differ by at most
    `difference`, and at `agreeing` of `positions` positions the greatest one is the same."""

    tensors: int
    tokens: int
    difference: float
    agreeing: int
    positions: int


def compare(source: TensorIndex, config: GlmConfig, copy: Path, progress: Progress) -> Comparison:
    """Compare the model of `source` under `config` with the folder `copy`, which is read as any model folder is.

    A copy in another dtype is compared with the source in that dtype. Raises `CheckFailed` where they differ at all.
    """
    found = GlmConfig.from_pretrained(copy)
    _same_config(config, found)
    index = read_index(copy)
    tensors = _same_tensors(source, index, progress)
    dtype = _compute_dtype(found, index)
    ids_BT = _prompt(config)
    total, done = 2 * config.num_hidden_layers, 0

    def layer_done() -> None:
        nonlocal done
        done += 1
        progress("running both", done, total)

    before, after = (
        streamed_output(which, settings, ids_BT, dtype, on_layer=layer_done).float()
        for which, settings in ((source, config), (index, found))
    )
    if not torch.isfinite(before).all():
        raise CheckFailed(
            f"{source.folder}: the model gives no finite numbers in {str(dtype).removeprefix('torch.')}, so nothing "
            "can be compared. GLM overflows float16; else the weights are damaged."
        )
    difference = (after - before).abs().max().item()
    agreeing = (after.argmax(-1) == before.argmax(-1)).sum().item()
    if difference != 0:
        raise CheckFailed(
            f"the converted model differs from {source.folder}: its outputs by up to {difference:.3g}, on {TOKENS} "
            "tokens. Nothing was kept. Please report this."
        )
    return Comparison(tensors, ids_BT.numel(), difference, int(agreeing), before.shape[:-1].numel())


def model_class(config: GlmConfig, index: TensorIndex) -> type[pretrained.Pretrained]:
    """The class that has a place for every head in the folder: what the weights hold counts more than what
    `architectures` says."""
    names = index.tensors
    if "score.weight" in names:
        says = " ".join(config.architectures or [])
        bias = names.get("score.bias")
        # The original's sequence classifier has a bias, ours has none.
        ours = bias is not None and bias.name == "score.bias"
        token = "ForTokenClassification" in says or (ours and "ForSequenceClassification" not in says)
        return pretrained.GlmForTokenClassification if token else pretrained.GlmForSequenceClassification
    headed = any(name.startswith("model.") for name in names)
    if "lm_head.weight" in names or (headed and config.tie_word_embeddings):
        return pretrained.GlmForCausalLM
    if "ForCausalLM" in " ".join(config.architectures or []):
        raise CheckpointError(
            f"{index.folder}: config.json names a causal language model, and the weights hold no head for it"
            " (lm_head.weight); the folder is incomplete"
        )
    return pretrained.GlmModel


def streamed_output(
    index: TensorIndex,
    config: GlmConfig,
    input_ids_BT: Tensor,
    dtype: torch.dtype,
    *,
    on_layer: Callable[[], None] = lambda: None,
) -> Tensor:
    """Logits (B, T, V) of a folder's model on the CPU, computed in `dtype`; of a sequence classifier (B, V), of a
    model without a head its hidden states (B, T, H). `config` takes the place of the folder's own. `on_layer` is
    called after each layer.

    Raises `CheckpointError` where the folder does not hold such a model.
    """
    with torch.device("meta"):
        model = model_class(config, index)(config)
    slots_of: dict[int, list[Slot]] = {}
    for slot in fitting_slots(model, index):
        found = _LAYER.match(slot.names[0])
        slots_of.setdefault(int(found[1]) if found else -1, []).append(slot)
    fill(model, slots_of.pop(-1, []), dtype, "cpu")

    layers: Any = getattr(model, "model", model).layers

    def load(n: int, layer: Any, _inputs: Any) -> None:
        if n:
            _lend(layers[n - 1], layer)
        slots = [replace(slot, target=model.get_parameter(slot.names[0])) for slot in slots_of[n]]
        fill(model, slots, dtype, "cpu")

    hooks = [
        hook
        for n, layer in enumerate(layers)
        for hook in (
            layer.register_forward_pre_hook(functools.partial(load, n)),
            layer.register_forward_hook(lambda *_: on_layer()),
        )
    ]
    with torch.no_grad():
        output: Any = model.eval()(input_ids=input_ids_BT, use_cache=False, return_dict=True)
    for hook in hooks:  # they and the model refer to each other: it would outlive this call
        hook.remove()
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def _lend(used: nn.Module, layer: nn.Module) -> None:
    """Give `layer` the memory of a layer that has run. Freed and asked for again, it would pile up in the allocator."""
    for name, parameter in used.named_parameters():
        owner, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, parameter)


def _same_config(wanted: GlmConfig, found: GlmConfig) -> None:
    """What the layouts name differently must read back as it was."""
    ours, theirs = wanted.to_dict(), found.to_dict()
    keys = (ours.keys() | theirs.keys()) - wanted.extra.keys() - found.extra.keys()
    other = [f"{key}: {ours.get(key)!r} became {theirs.get(key)!r}" for key in sorted(keys)]
    other = [line for line, key in zip(other, sorted(keys), strict=True) if ours.get(key) != theirs.get(key)]
    if other:
        raise CheckFailed("the converted config.json reads differently:\n" + "\n".join(other))


def _same_tensors(source: TensorIndex, copy: TensorIndex, progress: Progress) -> int:
    """How many tensors the copy has, each with the bytes of the source's (in its dtype)."""
    shared = {name: stored for name, stored in copy.tensors.items() if name in source.tensors}
    total, done = sum(stored.nbytes for stored in shared.values()), 0
    for name, stored in shared.items():
        progress("comparing", done, total)
        done += stored.nbytes
        if not _same_bytes(source.tensors[name], stored):
            raise CheckFailed(
                f"tensor {name} was written with other values. Nothing was kept. Please report this."
            )
    return len(shared)


def _same_bytes(first: StoredTensor, second: StoredTensor) -> bool:
    one, other = (read_tensor(stored).detach() for stored in (first, second))
    one, other = (t.to(second.dtype).contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(one, other)


def _compute_dtype(config: GlmConfig, index: TensorIndex) -> torch.dtype:
    """What `from_pretrained` computes in: the config's dtype, else the widest stored one."""
    if config.dtype is not None:
        return getattr(torch, config.dtype)
    kinds = {stored.dtype for stored in index.tensors.values() if stored.dtype.is_floating_point}
    return functools.reduce(torch.promote_types, kinds)


def _prompt(config: GlmConfig) -> Tensor:
    """Token ids (1, T) spread over the whole vocabulary, none of them padding."""
    ids = [(1 + n * 2654435761) % config.vocab_size for n in range(4 * TOKENS)]
    ids = [id_ for id_ in ids if id_ != config.pad_token_id] or [0]
    return torch.tensor([ids[:TOKENS]])
