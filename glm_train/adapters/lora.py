"""Adding a LoRA adapter to a model, in place.

The model keeps its class, its methods and the names of what is not adapted. An adapted layer `q_proj` becomes PEFT's:

    q_proj.base_layer.weight        frozen, in the model's dtype (or 4 bits)
    q_proj.lora_A.default.weight    (R, I), trained, fp32
    q_proj.lora_B.default.weight    (O, R), trained, fp32

What is trained is fp32, what is frozen keeps its dtype; on an accelerator autocast makes the products 16-bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from glm_train.adapters.base import remember_base
from glm_train.adapters.record import (
    AdapterReport,
    adapter_tensors,
    has_adapter,
    remember,
    restore_adapter_tensors,
)
from glm_train.adapters.settings import LoraSettings, check_settings, token_ids
from glm_train.adapters.targets import HEAD, TIED, adapted_names, is_tied, short_names, whole_names
from glm_train.adapters.trained import add_new_tokens, check_new_tokens, train_whole

__all__ = [
    "AdapterReport",
    "LoraSettings",
    "adapter_tensors",
    "add_adapter",
    "restore_adapter_tensors",
    "token_ids",
]


def add_adapter(model: nn.Module, settings: LoraSettings) -> AdapterReport:
    """Freeze the model and add the adapter: at first it changes no output, but where a head is new.

    First values come from torch's global generator, on the device of the weights. Comes after the weights are loaded
    (and `quantize_base`), before the optimizer, `parallelize` and any sharding. `parameters()` keep the model's order.

    Raises ConfigError listing the faults of the settings: a target that matches nothing, with the names that exist.
    Raises ValueError for a model that has an adapter, or has no weights yet.
    """
    check_settings(settings)
    if has_adapter(model):
        raise ValueError("the model has an adapter already; merge it first, or start from the base")
    adapted = adapted_names(model, settings)
    whole = whole_names(model, settings, adapted)
    check_new_tokens(model, settings.new_tokens, whole)  # type: ignore[arg-type]
    return install(model, settings, dict.fromkeys(adapted, (settings.r, settings.alpha)), whole)


def install(
    model: Any,
    settings: LoraSettings,
    adapted: Mapping[str, tuple[int, float]],
    whole: list[str],
    *,
    head_rows: bool = True,
    new: bool = True,
) -> AdapterReport:
    """Add an adapter whose layers are known (name -> rank and alpha), with fresh first values. Nothing is checked.

    `head_rows`: new tokens have rows in the head too. `new`: no trained values will take the place of the first ones.
    """
    from glm_train.adapters.layers import adopt, initialise

    ids = settings.new_tokens
    model_dtype = model.get_input_embeddings().weight.dtype
    remember_base(model)
    _inject(model, settings, adapted)
    for name in adapted:
        initialise(adopt(model.get_submodule(name)), settings.init, new=new)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
    for name in [*whole, *([HEAD] if TIED[0] in whole and is_tied(model) else [])]:
        train_whole(model.get_submodule(name), model_dtype)
    tokens = add_new_tokens(model, ids, with_head=head_rows) if ids else []  # type: ignore[arg-type]
    model.train(model.training)  # the new modules too
    return remember(model, settings, list(adapted), whole, tokens, model_dtype)


def _inject(model: nn.Module, settings: LoraSettings, adapted: Mapping[str, tuple[int, float]]) -> None:
    """Put PEFT's layers in place of the adapted ones, their factors on the meta device."""
    from peft import LoraConfig, inject_adapter_in_model

    names = [name for name, _ in model.named_modules()]
    uniform = set(adapted.values()) == {(settings.r, settings.alpha)}
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=short_names(list(adapted), names),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        init_lora_weights=False,
        rank_pattern={} if uniform else {name: rank for name, (rank, _) in adapted.items()},
        alpha_pattern={} if uniform else {name: alpha for name, (_, alpha) in adapted.items()},
    )
    inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
