"""The transformations of a model before training, in the one order in which they compose.

1. activation checkpointing, around each decoder layer's forward;
2. compilation of each decoder layer: `torch.compile` sees the checkpoint inside it and can plan across it. All layers
   are alike, so one compiled graph serves them all, in seconds, where a whole model takes minutes;
3. sharding, which must come last to own the parameters it finds: `shard.py`.

None of them wraps a module: state-dict keys, parameter names and `isinstance` stay as they were.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from glm_train.errors import ConfigError, nearest

ACTIVATION_CHECKPOINTING = ("none", "full", "selective")
# What a layer's time goes to: every other one of these products is kept.
_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
# Attention reads much to write little, so its results are worth their room.
_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
)


def parallelize(model: nn.Module, *, activation_checkpointing: str, compile: bool) -> None:
    """Change `model` in place; it has its decoder layers in `layers`, or its body in `model` has.

    `activation_checkpointing`: `full` keeps only each layer's input for backward and runs the layer again there: about
    a third more work, a small part of the memory. `selective` keeps attention and every second product too: half the
    work of `full`, about half of the memory. Without gradients, and in evaluation mode, neither changes anything.
    Raises ConfigError for another word than those of `ACTIVATION_CHECKPOINTING`.
    """
    if activation_checkpointing not in ACTIVATION_CHECKPOINTING:
        raise ConfigError(
            f"parallel.activation_checkpointing: unknown choice {activation_checkpointing!r};"
            f" expected one of {', '.join(ACTIVATION_CHECKPOINTING)}."
            + nearest(activation_checkpointing, ACTIVATION_CHECKPOINTING)
        )
    layers = decoder_layers(model)
    again = {"full": _forward_again_in_backward, "selective": _forward_partly_again}
    if activation_checkpointing in again:
        for layer in layers:
            # A bound method, not a closure: a deep copy of the model then runs its own layers.
            layer.forward = MethodType(again[activation_checkpointing], layer)
    if compile:
        for layer in layers:
            layer.compile()


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a body (`layers`) or of a body with a head on it (`model.layers`)."""
    layers = getattr(getattr(model, "model", model), "layers", None)
    assert isinstance(layers, nn.ModuleList), f"{type(model).__name__} has no decoder layers"
    return layers


def _forward_again_in_backward(layer: nn.Module, *args: object, **kwargs: object) -> object:
    """The layer's own forward, checkpointed. The random state is kept, so dropout repeats itself."""
    return _checkpointed(layer, args, kwargs)


def _forward_partly_again(layer: nn.Module, *args: object, **kwargs: object) -> object:
    """The same, but for what `_Selection` keeps."""
    return _checkpointed(
        layer, args, kwargs, context_fn=lambda: create_selective_checkpoint_contexts(_Selection())
    )


class _Selection:
    """Which results of one run of a layer are kept; a second run of it must decide alike."""

    def __init__(self) -> None:
        self._products = {False: 0, True: 0}

    def __call__(self, context: Any, op: Any, *args: object, **kwargs: object) -> CheckpointPolicy:
        kept = op in _ATTENTION
        if op in _PRODUCTS:
            self._products[context.is_recompute] += 1
            kept = self._products[context.is_recompute] % 2 == 1
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _checkpointed(
    layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], **how: Any
) -> object:
    """A layer that fills a cache, or hands out its attention weights, runs once: again would fill them twice."""
    plain = partial(type(layer).forward, layer, **kwargs)
    fills = any(kwargs.get(name) is not None for name in ("cache", "attentions"))
    if not layer.training or fills:
        return plain(*args)
    return checkpoint(plain, *args, use_reentrant=False, **how)
