"""Which model an adapter belongs to: it changes that model's weights, and on another's it is noise.

A base is known by its fingerprint: the SHA-256 over the name, the shape and 64 evenly spaced values (as bf16) of every
tensor of the decoder, embedding included. It is taken from the weights in memory, so it does not depend on how the
files are split, on the layout they have, or on whether bf16 weights were loaded as fp32; a fine-tuned copy has another.
Heads are left out: they differ between the tasks of one base. A language model's own head has a fingerprint by itself.
It takes milliseconds, and is no proof against forgery.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.targets import HEAD, is_tied

_SAMPLES = 64
_ATTRIBUTE, _HEAD_ATTRIBUTE = "base_fingerprint", "base_head_fingerprint"


def remember_base(model: nn.Module) -> str:
    """The fingerprint of the model's decoder, taken now unless it was before: by the first of `quantize_base` and
    `add_adapter`, both of which change the weights."""
    known, head = base_of(model), head_of(model)
    setattr(model, _ATTRIBUTE, known)
    setattr(model, _HEAD_ATTRIBUTE, head)
    return known


def base_of(model: nn.Module) -> str:
    """What was remembered, else the fingerprint of the weights as they are."""
    return getattr(model, _ATTRIBUTE, None) or fingerprint(model)


def head_of(model: nn.Module) -> str | None:
    """The same of a language model's own head; None where it has none, or one that is its embedding."""
    if hasattr(model, _HEAD_ATTRIBUTE):
        return getattr(model, _HEAD_ATTRIBUTE)
    head: Any = getattr(model, HEAD, None)
    return None if head is None or is_tied(model) else _digest(head)


def remembered(model: nn.Module) -> str | None:
    """Both in one word, as they were remembered; None where nothing was: the model has no adapter."""
    prints = [getattr(model, name, None) for name in (_ATTRIBUTE, _HEAD_ATTRIBUTE)]
    return "/".join(found[:16] for found in prints if found) or None


def forget_base(model: nn.Module) -> None:
    """The weights are others now."""
    for name in (_ATTRIBUTE, _HEAD_ATTRIBUTE):
        if hasattr(model, name):
            delattr(model, name)


def fingerprint(model: nn.Module) -> str:
    """The fingerprint of a plain model's decoder: 64 hex digits. Raises ValueError without weights."""
    return _digest(getattr(model, "model", model))


@torch.no_grad()
def _digest(part: nn.Module) -> str:
    digest = hashlib.sha256()
    samples: list[Tensor] = []
    for name, parameter in sorted(part.named_parameters()):
        if parameter.is_meta:
            raise ValueError(
                "the model is on the meta device, without weights; fill it with load_weights first"
            )
        flat = parameter.detach().reshape(-1)
        at = torch.linspace(0, len(flat) - 1, min(_SAMPLES, len(flat)), dtype=torch.float64).long()
        samples.append(flat[at.to(flat.device)].to(torch.bfloat16))
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
    digest.update(torch.cat(samples).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()
