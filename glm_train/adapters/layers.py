"""PEFT's LoRA layer with a leaner forward. Imported inside functions only: `peft` takes seconds to import.

Names, parameters and state-dict keys are PEFT's. Results equal those of PEFT's own forward, but for DoRA with dropout:
there PEFT multiplies the dropped input by the frozen weight a second time; here dropout is on the low-rank path alone.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from glm_train.adapters.low_rank import adapted_linear, row_lengths, row_tiles
from glm_train.adapters.quantize import is_quantized, plain_weight, unquantized
from glm_train.adapters.starts import first_values

ADAPTER = "default"  # PEFT's name for the one adapter of a model


class AdaptedLinear(Linear):
    """A frozen linear layer in `base_layer`, with the factors `lora_A` and `lora_B` and, for DoRA, a trained length of
    each row in `lora_magnitude_vector`. `start_A` and `start_B`, where not None, are taken off (see `starts.py`)."""

    start_A: Tensor | None
    start_B: Tensor | None
    held_stretch_O: (
        Tensor | None
    )  # DoRA's factor of each row while the weights stand still, see `hold_stretch`
    # For the type checker, to which modules in a ModuleDict are anything.
    base_layer: Any
    lora_A: Any
    lora_B: Any
    lora_magnitude_vector: Any

    @property
    def weight(self) -> Tensor:
        """What the layer multiplies by, in fp32, differentiable in the factors: for a loss that takes a head's weight
        and not its output."""
        a_RI, b_OR, scaling = self.factors()
        base_OI = plain_weight(self.base_layer).to(a_RI.dtype)
        weight_OI = torch.addmm(base_OI, b_OR, a_RI, alpha=scaling)
        if (lengths_O := self.magnitude()) is not None:
            weight_OI = weight_OI * (lengths_O / weight_OI.detach().norm(dim=1))[:, None]
        return weight_OI

    def factors(self) -> tuple[Tensor, Tensor, float]:
        """A (R, I), B (O, R) and the scaling of their product, the start taken off."""
        a_RI, b_OR = self.lora_A[ADAPTER].weight, self.lora_B[ADAPTER].weight
        if self.start_A is not None and self.start_B is not None:
            a_RI, b_OR = torch.cat((a_RI, self.start_A)), torch.cat((b_OR, -self.start_B), dim=1)
        return a_RI, b_OR, self.scaling[ADAPTER]

    def magnitude(self) -> Tensor | None:
        """DoRA's trained row lengths (O,)."""
        return self.lora_magnitude_vector[ADAPTER].weight if ADAPTER in self.lora_magnitude_vector else None

    def forward(self, x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        a_RI, b_OR, scaling = self.factors()
        drop = getattr(self.lora_dropout[ADAPTER], "p", 0.0) if self.training else 0.0
        base, lengths_O = self.base_layer, self.magnitude()
        if lengths_O is None:
            return adapted_linear(x, base.weight, base.bias, a_RI, b_OR, scaling, drop)
        y = adapted_linear(x, base.weight, None, a_RI, b_OR, scaling, drop)
        stretch_O = self.held_stretch_O
        if stretch_O is None:
            stretch_O = lengths_O / row_lengths(plain_weight(base), a_RI, b_OR, scaling)
        stretched = y * stretch_O
        return (stretched if base.bias is None else stretched + base.bias).to(y.dtype)

    def train(self, mode: bool = True) -> AdaptedLinear:
        if mode:
            self.held_stretch_O = None
        return super().train(mode)

    @torch.no_grad()
    def hold_stretch(self) -> None:
        """Compute DoRA's factors once, until `train()`: else each forward reads the whole weight for its lengths."""
        if (lengths_O := self.magnitude()) is not None:
            a_RI, b_OR, scaling = self.factors()
            self.held_stretch_O = lengths_O / row_lengths(plain_weight(self.base_layer), a_RI, b_OR, scaling)


def adopt(layer: Linear) -> AdaptedLinear:
    """Make PEFT's new layer, whose factors lie on the meta device, one of ours: factors in fp32 where the base is."""
    layer.__class__ = AdaptedLinear
    adapted: Any = layer
    device = adapted.base_layer.weight.device
    for factor in (adapted.lora_A[ADAPTER], adapted.lora_B[ADAPTER]):
        factor.weight = nn.Parameter(torch.empty(factor.weight.shape, dtype=torch.float32, device=device))
    adapted.start_A = adapted.start_B = adapted.held_stretch_O = None
    return adapted


@torch.no_grad()
def initialise(layer: AdaptedLinear, init: str, *, new: bool) -> None:
    """First values of the factors, of the start where there is one, and of DoRA's lengths: those of the weight."""
    a_RI, b_OR = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    base_OI = plain_weight(layer.base_layer)
    has_start = first_values(base_OI, a_RI, b_OR, init, layer.scaling[ADAPTER], new=new)
    del layer.start_A, layer.start_B  # plain attributes until here
    for name, value in (("start_A", a_RI), ("start_B", b_OR)):
        layer.register_buffer(name, value.clone() if has_start else None, persistent=False)
    if ADAPTER in layer.lora_magnitude_vector:
        lengths_O = row_lengths(base_OI, *layer.factors())
        layer.lora_magnitude_vector[ADAPTER].weight = nn.Parameter(lengths_O)


@torch.no_grad()
def fold(layer: AdaptedLinear) -> nn.Linear:
    """The base layer with the adapter in its weight, a few rows at a time; a 4-bit one becomes a plain one."""
    a_RI, b_OR, scaling = layer.factors()
    base, lengths_O = layer.base_layer, layer.magnitude()
    plain = unquantized(base) if is_quantized(base) else base
    for rows in row_tiles(plain.weight):
        folded_OI = torch.addmm(plain.weight[rows].to(a_RI.dtype), b_OR[rows], a_RI, alpha=scaling)
        if lengths_O is not None:
            folded_OI *= (lengths_O[rows] / folded_OI.norm(dim=1))[:, None]
        plain.weight[rows] = folded_OI.to(plain.weight.dtype)
    return plain
