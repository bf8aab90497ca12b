"""A classification head that a folder does not hold: which parameters are new, and their first values.

Any folder's body may get a new head. The other way round nothing is made up: a head that the folder holds is either
loaded or, where it does not fit, refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.checkpoint.fit import Place, places
from glm_train.checkpoint.index import TensorIndex
from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig

_HEAD = "score."


def new_head(module: nn.Module, index: TensorIndex) -> list[Place]:
    """The parameters of the module's classification head where the folder holds nothing of one; else none."""
    if _holds_one(index):
        return []
    return [place for place in places(module) if place.names[0].startswith(_HEAD)]


def first_values(module: Any, place: Place) -> Tensor:
    """Random values for one parameter of a new head, as at the module's construction: fp32, on the CPU.

    Normal(0, `initializer_range`) from torch's global generator for the matrix, so that one seed gives one head
    whatever the device and dtype; zeros for a bias.
    """
    values = torch.zeros(place.target.shape, dtype=torch.float32, device="cpu")
    if place.names[0].endswith(".bias"):
        return values
    return values.normal_(0.0, module.config.initializer_range)


def check_head(model: str, config: GlmConfig, index: TensorIndex) -> None:
    """Raise `CheckpointError` where a classification head would be taken for the other kind, or made anew although
    config.json says that the folder holds one. `model` is the class that is asked for."""
    named = [name.replace("Glm4", "Glm", 1) for name in config.architectures or []]
    held = next((name for name in named if name.endswith("Classification")), None)
    if held is None or not model.endswith("Classification"):
        return
    if not _holds_one(index):
        raise CheckpointError(
            f"{index.folder}: config.json says that this is a {held} (architectures), but the weights hold no "
            f"{_HEAD}weight: the folder is not complete. To start a new head on purpose, take architectures out of "
            "config.json."
        )
    if held != model:
        raise CheckpointError(
            f"{index.folder}: config.json says that this is a {held} (architectures), whose head is not one of "
            f"{model}: load it as {held}. To start a new head, give the folder of a causal LM."
        )


def _holds_one(index: TensorIndex) -> bool:
    return any(name.startswith(_HEAD) for name in index.tensors)
