"""A model that stays in its files: what a layer needs is read, in fp32, just before it runs and let go after it.

Loading a model to look at one forward pass takes all its memory, and twice that in fp32. Here the most that is in
memory at once is one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.checkpoint.fit import places

#: (name of a parameter, its tensor as it is stored) -> what the model computes with.
Weights = Callable[[str, Tensor], Tensor]
#: (name of a module, its input, its output, its parameters) -> another output, or None for the same.
After = Callable[[str, Tensor, Tensor, dict[str, Tensor]], Tensor | None]


def in_fp32(name: str, tensor: Tensor) -> Tensor:
    """The `Weights` of a model as it is."""
    return tensor.float()


@torch.no_grad()
def output_of(
    model: Any,
    input_ids_BT: Tensor,
    weights: Weights = in_fp32,
    after: After = lambda *_: None,
    on_module: Callable[[], None] = lambda: None,
) -> Tensor:
    """The logits of a model with a head, (B, T, V), (B, T, L) or (B, L), on the CPU.

    `weights` gives each parameter, under its first name where it has two, and `after` may change what a module gives.
    `on_module` is called for each module that has run.
    """
    first = {name: place.names[0] for place in places(model) for name in place.names}

    def before(name: str, module: Any, _inputs: Any) -> None:
        module.stored_parameters = dict(module._parameters)
        for leaf, stored in module.stored_parameters.items():
            if stored is not None:
                made = weights(first[f"{name}.{leaf}"], stored.detach())
                module._parameters[leaf] = nn.Parameter(made, requires_grad=False)

    def behind(name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        used = {leaf: p.detach() for leaf, p in module._parameters.items() if p is not None}
        module._parameters.update(module.__dict__.pop("stored_parameters"))
        on_module()
        return after(name, inputs[0], output, used)

    hooks = []
    for name, module in model.named_modules():
        if module._parameters:
            hooks += [
                module.register_forward_pre_hook(lambda m, x, name=name: before(name, m, x)),
                module.register_forward_hook(lambda m, x, y, name=name: behind(name, m, x, y)),
            ]
    try:
        return model.eval()(input_ids=input_ids_BT, use_cache=False, return_dict=True).logits
    finally:
        for hook in hooks:
            hook.remove()
