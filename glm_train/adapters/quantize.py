"""QLoRA (Dettmers et al. 2023, arXiv 2305.14314): the frozen base in 4 bits, through `bitsandbytes`.

The decoder's linear layers are kept in NF4, 64 numbers a block, their scales in 8 bits again: 0.52 bytes a number. A
product takes its weight back to 16 bits for the moment. Embedding, head and norms stay as they are.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.base import remember_base
from glm_train.adapters.targets import DECODER_LINEARS
from glm_train.errors import ConfigError

INSTALL = 'pip install "glm-train[qlora]"'


def require_quantization() -> None:
    """Raise ConfigError, with the install line, where `bitsandbytes` is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"adapter=qlora needs the package bitsandbytes, which is not installed: {INSTALL}")


def quantize_base(model: nn.Module, *, device: str | torch.device | None = None) -> nn.Module:
    """Turn the decoder's linear layers to 4 bits, in place and one at a time, and return the model.

    `device`: where the 4-bit layers go, by default where they are; give `cuda` for a model that was loaded on the CPU,
    so that the GPU never holds the 16-bit weights. Products are computed in the dtype that the weights had. Comes
    before `add_adapter`. The base's fingerprint is taken first, so adapters know it by its exact weights. Raises
    ConfigError where `bitsandbytes` is missing, ValueError for a model that has an adapter already.
    """
    require_quantization()
    import bitsandbytes

    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already; quantize the base first, then add the adapter")
    remember_base(model)
    parents = {
        f"{name}.{child}": (part, child) for name, part in model.named_modules() for child in part._modules
    }
    for name, (parent, child) in parents.items():
        layer = getattr(parent, child)
        if child in DECODER_LINEARS and isinstance(layer, nn.Linear) and not is_quantized(layer):
            if layer.weight.is_meta:
                raise ValueError(f"{name} has no weights yet; fill the model with load_weights first")
            setattr(
                parent, child, _quantized(bitsandbytes, layer, torch.device(device or layer.weight.device))
            )
    return model


def is_quantized(layer: nn.Module) -> bool:
    """True for a 4-bit layer, told without importing the library."""
    return getattr(getattr(layer, "weight", None), "quant_state", None) is not None


def plain_weight(layer: nn.Module) -> Tensor:
    """The weight (O, I) of a linear layer; of a 4-bit one, a copy in 16 or 32 bits."""
    weight: Any = layer.weight
    return dense(weight, getattr(weight, "quant_state", None))


def dense(weight: Tensor, quant_state: Any) -> Tensor:
    """The weight as the matrix (O, I) that it stands for: itself where `quant_state` is None."""
    if quant_state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, quant_state)


def unquantized(layer: Any) -> nn.Linear:
    """A plain linear layer with the values of a 4-bit one."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight, plain.bias = nn.Parameter(plain_weight(layer), requires_grad=False), layer.bias
    return plain


def numbers_in(parameter: Tensor) -> int:
    """How many weights a parameter stands for: a 4-bit one holds two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def _quantized(bitsandbytes: Any, layer: nn.Linear, device: torch.device) -> nn.Module:
    made = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        compress_statistics=True,
        device="meta",
    )
    made.weight = bitsandbytes.nn.Params4bit(
        layer.weight.detach().contiguous(),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
        module=made,
    )
    made.bias = layer.bias
    # In evaluation mode on some CPUs the library would repack the weight for good, in a form that has no backward and
    # does not come back the same.
    made.support_avx512bf16_for_cpu = False
    return made.to(device).train(layer.training)
