"""Folding an adapter into the weights of its base."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from glm_train.adapters.base import forget_base
from glm_train.adapters.record import forget, record_of
from glm_train.adapters.targets import CLASSIFIER
from glm_train.adapters.trained import make_plain


@torch.no_grad()
def merge(model: Any) -> nn.Module:
    """Make the model a plain one whose weights hold the adapter, in place, and return it.

    One layer at a time and a few rows of it at a time: beside the model it takes 32 MiB. The state dict has Hugging
    Face's names again, all in the dtype of the frozen base but for a classification head: the base had none, so it
    keeps the fp32 in which it was trained. Every parameter is trainable, as in a model just loaded.

    A 4-bit base becomes a 16-bit one that answers as the 4-bit one did; to serve an adapter it is better to load the
    original base in 16 bits, load the adapter, and merge that. Raises ValueError for a model without adapter.
    """
    from glm_train.adapters.layers import AdaptedLinear, fold
    from glm_train.adapters.quantize import is_quantized, unquantized

    report = record_of(model)
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, AdaptedLinear)]
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, fold(layer))
    for name, part in list(model.named_modules()):
        if is_quantized(part):  # one that no target named
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, unquantized(part))
    for name, part in model.named_modules():
        make_plain(part, torch.float32 if name == CLASSIFIER else report.base_dtype)
    forget(model)
    forget_base(model)
    return model.requires_grad_(True).train(model.training)


def settle(model: Any) -> Any:
    """Make an adapted model that is only used, not trained, as fast as it can be with the same answers; return it.

    An fp32 base takes the adapter into its weights. A narrower one would round it there, so it keeps it beside, with
    DoRA's row lengths computed once. Raises ValueError for a model without adapter.
    """
    report = record_of(model)
    if report.base_dtype == torch.float32 and not report.quantized:
        return merge(model)
    from glm_train.adapters.layers import AdaptedLinear

    for part in model.eval().modules():
        if isinstance(part, AdaptedLinear):
            part.hold_stretch()
    return model
