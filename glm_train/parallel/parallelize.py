"""The transformations of a model before training, in the one order in which they compose.

1. activation checkpointing, around each decoder layer's forward;
2. compilation of each decoder layer: `torch.compile` sees the checkpoint inside it and can plan across it. All layers
   are alike, so one compiled graph serves them all, in seconds, where a whole model takes minutes;
3. sharding, which must come last to own the parameters it finds. (No sharded strategy exists yet.)

None of them wraps a module: state-dict keys, parameter names and `isinstance` stay as they were.
"""

from __future__ import annotations

from functools import partial
from types import MethodType

from torch import nn
from torch.utils.checkpoint import checkpoint

from glm_train.errors import ConfigError, nearest

ACTIVATION_CHECKPOINTING = ("none", "full")


def parallelize(model: nn.Module, *, activation_checkpointing: str, compile: bool) -> None:
    """Change `model` in place; it has its decoder layers in `layers`, or its body in `model` has.

    `activation_checkpointing`: `full` keeps only each layer's input for backward and runs the layer again there: about
    a third more work, a small part of the memory. Without gradients, and in evaluation mode, it changes nothing.
    Raises ConfigError for another word than those of `ACTIVATION_CHECKPOINTING`.
    """
    if activation_checkpointing not in ACTIVATION_CHECKPOINTING:
        raise ConfigError(
            f"parallel.activation_checkpointing: unknown choice {activation_checkpointing!r};"
            f" expected one of {', '.join(ACTIVATION_CHECKPOINTING)}."
            + nearest(activation_checkpointing, ACTIVATION_CHECKPOINTING)
        )
    layers = decoder_layers(model)
    if activation_checkpointing == "full":
        for layer in layers:
            # A bound method, not a closure: a deep copy of the model then runs its own layers.
            layer.forward = MethodType(_forward_again_in_backward, layer)
    if compile:
        for layer in layers:
            layer.compile()


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers of a body (`layers`) or of a body with a head on it (`model.layers`)."""
    layers = getattr(getattr(model, "model", model), "layers", None)
    assert isinstance(layers, nn.ModuleList), f"{type(model).__name__} has no decoder layers"
    return layers


def _forward_again_in_backward(layer: nn.Module, *args: object, **kwargs: object) -> object:
    """The layer's own forward, checkpointed. The random state is kept, so dropout repeats itself.

    A layer that fills a cache, or hands out its attention weights, runs once: again would fill them twice.
    """
    plain = partial(type(layer).forward, layer, **kwargs)
    fills = any(kwargs.get(name) is not None for name in ("cache", "attentions"))
    return checkpoint(plain, *args, use_reentrant=False) if layer.training and not fills else plain(*args)
