"""Tiny models with adapters that do something, and PEFT's own way to the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.lora import LoraSettings, add_adapter

DECODER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"]


def ids(rows: int = 2, tokens: int = 9, vocab: int = 64) -> Tensor:
    return torch.randint(10, vocab, (rows, tokens), generator=torch.Generator().manual_seed(5))


def adapted(model: nn.Module, **settings: Any) -> nn.Module:
    """`model` with an adapter whose every trained number is away from its first value."""
    add_adapter(model, LoraSettings(**{"r": 4, **settings}))
    return perturbed(model)


@torch.no_grad()
def perturbed(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.05)
    return model


def peft_model(reference: nn.Module, folder: Path) -> Any:
    """transformers' model with the adapter of `folder`, as PEFT loads it."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(reference, folder).eval()  # type: ignore[arg-type]


def peft_trained(reference: nn.Module, folder: Path, task: str, **settings: Any) -> Any:
    """transformers' model with a new adapter of PEFT's, moved off its first values and saved to `folder`."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(task_type=task, **{"r": 4, "target_modules": DECODER, **settings})
        model = perturbed(peft.get_peft_model(reference, config)).eval()  # type: ignore[arg-type]
        model.save_pretrained(folder)  # type: ignore[operator]
    return model
