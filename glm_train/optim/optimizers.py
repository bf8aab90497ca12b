"""The optimizers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from glm_train.errors import ConfigError, nearest

Groups = list[dict[str, Any]]


def build_optimizer(
    name: str, groups: Groups, lr: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """The optimizer called `name` on `groups` from `parameter_groups`. Raises ConfigError for an unknown name."""
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"optim.name: unknown optimizer {name!r}; expected one of {', '.join(OPTIMIZERS)}."
            + nearest(name, OPTIMIZERS)
        )
    return OPTIMIZERS[name](groups, lr, betas, eps)


def _adamw(groups: Groups, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) in torch's fused form.

    One pass over weight, gradient and both moments; the form with lists of tensors needs temporaries as large as the
    weights.
    """
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


OPTIMIZERS: dict[str, Callable[[Groups, float, tuple[float, float], float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
}
