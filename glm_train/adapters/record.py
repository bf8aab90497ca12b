"""What was done to a model: kept on the model itself, so that saving, merging and reporting agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glm_train.adapters.quantize import numbers_in
from glm_train.adapters.settings import LoraSettings

_ATTRIBUTE = "adapter_record"
_PREFIX = "base_model.model."  # what PEFT's own wrapper puts before the model's names
_ADAPTER = ".default"
_DELTA, _PEFT_DELTA = ".trainable_tokens_delta", ".token_adapter.trainable_tokens_delta"
_MAGNITUDE = ".lora_magnitude_vector"


@dataclass(frozen=True)
class AdapterReport:
    """What was adapted. `adapted` and `whole` are dotted module names."""

    settings: LoraSettings
    adapted: tuple[str, ...]
    whole: tuple[str, ...]
    token_modules: tuple[str, ...]
    trainable: int
    total: int
    base_dtype: torch.dtype
    quantized: bool = False

    def lines(self) -> list[str]:
        """What was adapted and the trainable share, for people; no line is longer than what it names."""
        settings, kinds = self.settings, Counter(name.rpartition(".")[2] for name in self.adapted)
        kind = "DoRA" if settings.dora else "LoRA"
        scale = f"alpha {settings.alpha:g}{' (rsLoRA)' if settings.rslora else ''}, scaling {settings.scaling:.4g}"
        base = "4-bit NF4" if self.quantized else str(self.base_dtype).removeprefix("torch.")
        lines = [
            f"{kind}: r {settings.r}, {scale}, dropout {settings.dropout:g}, first values {settings.init}",
            "adapted: " + ", ".join(f"{name} x{count}" for name, count in kinds.items()),
        ]
        if self.whole:
            lines.append("trained whole: " + ", ".join(self.whole))
        if self.token_modules:
            lines.append(
                f"trained rows of {len(settings.new_tokens)} tokens: " + ", ".join(self.token_modules)
            )
        share = 100 * self.trainable / self.total
        lines.append(
            f"trainable: {self.trainable:,} of {self.total:,} numbers ({share:.3g} %), in fp32; the frozen base is"
            f" {base}"
        )
        return lines


def record_of(model: nn.Module) -> AdapterReport:
    """The report of the model's adapter. Raises ValueError where it has none."""
    found = getattr(model, _ATTRIBUTE, None)
    if found is None:
        raise ValueError("the model has no adapter; add one with add_adapter or load_adapter")
    return found


def has_adapter(model: nn.Module) -> bool:
    return hasattr(model, _ATTRIBUTE) or hasattr(model, "peft_config")


def remember(
    model: nn.Module,
    settings: LoraSettings,
    adapted: list[str],
    whole: list[str],
    tokens: list[str],
    base_dtype: torch.dtype,
) -> AdapterReport:
    parameters = list(model.parameters())
    report = AdapterReport(
        settings,
        tuple(adapted),
        tuple(whole),
        tuple(tokens),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(numbers_in(p) for p in parameters),
        base_dtype=base_dtype,
        quantized=any(getattr(p, "quant_state", None) is not None for p in parameters),
    )
    setattr(model, _ATTRIBUTE, report)
    return report


def forget(model: nn.Module) -> None:
    for name in (_ATTRIBUTE, "peft_config"):
        if hasattr(model, name):
            delattr(model, name)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training changes, and what it started from, by PEFT's names in the model's order: what a resume
    state has to hold. The tensors are the model's own, not copies. Raises ValueError for a model without adapter."""
    return {peft_name(name): tensor for name, tensor in own_tensors(model).items()}


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The same by the names of the model's parameters and buffers."""
    whole = set(record_of(model).whole)
    tensors: dict[str, Tensor] = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name or name.endswith(_DELTA) or name.rpartition(".")[0] in whole
    }
    starts = {name: b for name, b in model.named_buffers() if name.endswith((".start_A", ".start_B"))}
    return tensors | starts


@torch.no_grad()
def restore_adapter_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put back what `adapter_tensors` gave, into a model with an adapter of the same settings.

    Raises ValueError where names or shapes differ; nothing is changed then.
    """
    own = adapter_tensors(model)
    if own.keys() != tensors.keys():
        differing = sorted(own.keys() ^ tensors.keys())
        raise ValueError(f"{len(differing)} tensors are on one side only, such as {differing[0]}")
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(f"{name} is {list(tensors[name].shape)}, expected {list(tensor.shape)}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def peft_name(name: str) -> str:
    """`model.x.lora_A.default.weight` is `base_model.model.model.x.lora_A.weight` in an adapter file."""
    if name.endswith(f"{_MAGNITUDE}{_ADAPTER}.weight"):
        name = name.removesuffix(f"{_ADAPTER}.weight")
    elif name.endswith(f"{_ADAPTER}.weight"):
        name = name.removesuffix(f"{_ADAPTER}.weight") + ".weight"
    elif name.endswith(_DELTA):
        name = name.removesuffix(_DELTA) + _PEFT_DELTA
    return _PREFIX + name


def own_name(name: str) -> str | None:
    """The opposite of `peft_name`; None for a name that no adapter file of PEFT has."""
    if not name.startswith(_PREFIX):
        return None
    name = name.removeprefix(_PREFIX)
    if name.endswith(_MAGNITUDE):
        return f"{name}{_ADAPTER}.weight"
    if name.endswith((".lora_A.weight", ".lora_B.weight")):
        return name.removesuffix(".weight") + f"{_ADAPTER}.weight"
    if name.endswith(_PEFT_DELTA):
        return name.removesuffix(_PEFT_DELTA) + _DELTA
    return name
