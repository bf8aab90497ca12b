"""Which parameters decay.

The rule is that of minGPT's `configure_optimizers`: matrices that multiply activations decay; vectors (norms, biases)
do not, for a norm's weight belongs near 1 and not near 0. Embeddings do not either: a step's gradient reaches only the
rows of its own tokens while decay shrinks all rows, so tokens that a fine-tune never shows would fade. A tied head is
the embedding, and is treated as one.

LoRA+ (Hayou et al. 2024, arXiv 2402.12354) trains the factor B of an adapter at a multiple of A's learning rate: B
starts at zero, and with one rate for both it learns too slowly in wide layers.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from glm_train.errors import ConfigError

# PEFT's names of a factor B, and of the rows of new tokens, which are an embedding's.
_FACTOR_B, _TOKEN_ROWS = ".lora_B.", "trainable_tokens_delta"


def parameter_groups(
    module: nn.Module, weight_decay: float, lr_ratio_b: float | None = None
) -> list[dict[str, Any]]:
    """Groups for an optimizer, in the module's order: decayed, not decayed, and with `lr_ratio_b` LoRA's factors B.

    The last group has `lr_ratio_b` under `lr_scale`: what a step's learning rate is multiplied by (1 where it is not
    there). A group that would be empty is left out. Frozen parameters are in none, tied ones once. Members are (name,
    parameter) pairs, so the optimizer's state knows names. Raises ConfigError where nothing is trainable, and for a
    ratio where nothing is a factor B.
    """
    embeddings = {id(m._parameters["weight"]) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: dict[str, nn.Parameter] = {}
    kept: dict[str, nn.Parameter] = {}
    factors_b: dict[str, nn.Parameter] = {}
    for name, parameter in module.named_parameters():  # yields a tied parameter once
        if not parameter.requires_grad:
            continue
        if lr_ratio_b is not None and _FACTOR_B in name:
            factors_b[name] = parameter
        elif parameter.dim() >= 2 and id(parameter) not in embeddings and not name.endswith(_TOKEN_ROWS):
            decayed[name] = parameter
        else:
            kept[name] = parameter
    if not decayed and not kept and not factors_b:
        raise ConfigError("no parameter of the model is trainable: unfreeze some, or add an adapter")
    if lr_ratio_b is not None and not factors_b:
        raise ConfigError("adapter.lr_ratio has no effect: the model has no LoRA adapter; set it to null")
    groups = ((decayed, {"weight_decay": weight_decay}), (kept, {"weight_decay": 0.0}))
    made = [{"params": list(members.items()), **rule} for members, rule in groups if members]
    if lr_ratio_b is not None:
        made.append(
            {"params": list(factors_b.items()), "weight_decay": weight_decay, "lr_scale": float(lr_ratio_b)}
        )
    return made
