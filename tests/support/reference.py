"""transformers' GLM with the same random weights as ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE, VARIANTS


def pair(variant: str, seed: int = 0) -> tuple[GlmForCausalLM, nn.Module]:
    """Our model and transformers', fp32, equal weights, in evaluation mode."""
    config = GlmConfig(**{**SHAPE, **VARIANTS[variant]})
    torch.manual_seed(seed)
    ours = GlmForCausalLM(config)
    with torch.no_grad():  # norms and biases too, which start as ones and zeros
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    reference = transformers_model(config)
    missing, unexpected = reference.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert all("inv_freq" in name for name in missing)
    return ours.eval(), reference.eval()


def transformers_config(config: GlmConfig) -> Any:
    import transformers

    kind = transformers.Glm4Config if config.model_type == "glm4" else transformers.GlmConfig
    values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    return kind(**values)


def transformers_model(config: GlmConfig) -> Any:
    import transformers

    kind = transformers.Glm4ForCausalLM if config.model_type == "glm4" else transformers.GlmForCausalLM
    return kind(transformers_config(config))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()
