"""Which parameters decay.

The rule is that of minGPT's `configure_optimizers`: matrices that multiply activations decay; vectors (norms, biases)
do not, for a norm's weight belongs near 1 and not near 0. Embeddings do not either: a step's gradient reaches only the
rows of its own tokens while decay shrinks all rows, so tokens that a fine-tune never shows would fade. A tied head is
the embedding, and is treated as one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from glm_train.errors import ConfigError


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for an optimizer, decayed first, in the module's order; a group that would be empty is left out.

    Frozen parameters are in neither, tied ones once. Members are (name, parameter) pairs, so the optimizer's state
    knows names. Raises ConfigError where nothing is trainable.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: dict[str, nn.Parameter] = {}
    kept: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():  # yields a tied parameter once
        if parameter.requires_grad:
            decays = parameter.dim() >= 2 and id(parameter) not in embeddings
            (decayed if decays else kept)[name] = parameter
    if not decayed and not kept:
        raise ConfigError("no parameter of the model is trainable: unfreeze some, or add an adapter")
    groups = ((decayed, weight_decay), (kept, 0.0))
    return [{"params": list(members.items()), "weight_decay": decay} for members, decay in groups if members]
