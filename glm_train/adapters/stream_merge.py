"""An adapter that stays in its file: merged into its base one tensor at a time, or run beside it.

Neither the base nor the merged model is ever in memory. The numbers are those of `load_adapter` and `merge`.

Shapes: O outputs, I inputs, R rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.base import fingerprint, head_of
from glm_train.adapters.base_file import read_adapter_base
from glm_train.adapters.config_file import read_adapter_config
from glm_train.adapters.folder import WEIGHTS_NAME, task_type
from glm_train.adapters.low_rank import row_lengths, row_tiles
from glm_train.adapters.starts import first_values
from glm_train.adapters.stored import StoredAdapter, read_stored
from glm_train.checkpoint.weights import read_tensor
from glm_train.errors import CheckpointError

_DELTA = "trainable_tokens_delta"


@dataclass(frozen=True)
class FileAdapter:
    """An adapter that fits its base. `stored` says where its tensors lie."""

    stored: StoredAdapter

    @property
    def whole(self) -> list[str]:
        """The names of the modules that were trained whole."""
        return list(self.stored.whole)

    @property
    def dora(self) -> bool:
        return self.stored.settings.dora

    def changed(self) -> set[str]:
        """The names of the parameters whose values differ from the base's."""
        parts = [*self.stored.adapted, *self.stored.token_modules]
        own = {name for name in self.stored.tensors if self._is_whole(name)}
        return own | {f"{part}.weight" for part in parts}

    def merged(self, name: str, base: Tensor, dtype: torch.dtype) -> Tensor:
        """The parameter `name` of the merged model in `dtype`; `base` is the base's, which is not changed."""
        if (replaced := self.replaced(name, base)) is not base:
            return replaced.to(dtype)
        layer = name.removesuffix(".weight")
        return self._folded(layer, base, dtype) if layer in self.stored.adapted else base.to(dtype)

    def replaced(self, name: str, base: Tensor) -> Tensor:
        """The parameter `name` without any low-rank change: the adapter's own where it was trained whole, the base's
        with the trained rows of new tokens, or the base's."""
        if self._is_whole(name):
            return read_tensor(self.stored.tensors[name])
        layer = name.removesuffix(".weight")
        if layer not in self.stored.token_modules:
            return base
        rows = read_tensor(self.stored.tensors[f"{layer}.{_DELTA}"])
        ids = torch.tensor(self.stored.settings.new_tokens)
        return base.to(torch.promote_types(base.dtype, rows.dtype)).index_copy(0, ids, rows)

    def beside(self, name: str, x: Tensor, y: Tensor, used: dict[str, Tensor]) -> Tensor | None:
        """What the adapted layer `name` gives in fp32, unmerged, for the input x (..., I) and the base's output
        y (..., O), computed with its parameters `used`. None for a layer that is not adapted."""
        if name not in self.stored.adapted:
            return None
        a_RI, b_OR, scaling = self._factors(name, used["weight"])
        change = nn.functional.linear(nn.functional.linear(x, a_RI), b_OR) * scaling
        if (lengths_O := self._lengths(name)) is None:
            return y + change
        bias = used.get("bias", torch.zeros(()))
        stretch_O = lengths_O / row_lengths(used["weight"], a_RI, b_OR, scaling)
        return (y - bias + change) * stretch_O + bias

    def _is_whole(self, name: str) -> bool:
        return name in self.stored.tensors and name.rpartition(".")[0] in self.stored.whole

    def _factors(self, layer: str, weight_OI: Tensor) -> tuple[Tensor, Tensor, float]:
        """A, B and the scaling of their product, the start in the base's own weight taken off."""
        rank, alpha = self.stored.adapted[layer]
        a_RI, b_OR = (
            read_tensor(self.stored.tensors[f"{layer}.lora_{kind}.default.weight"]).float() for kind in "AB"
        )
        scaling = alpha / (math.sqrt(rank) if self.stored.settings.rslora else rank)
        if self.stored.settings.init != "default":
            start_a, start_b = torch.empty_like(a_RI), torch.empty_like(b_OR)
            if first_values(weight_OI, start_a, start_b, self.stored.settings.init, scaling):
                a_RI, b_OR = torch.cat((a_RI, start_a)), torch.cat((b_OR, -start_b), dim=1)
        return a_RI, b_OR, scaling

    def _lengths(self, layer: str) -> Tensor | None:
        stored = self.stored.tensors.get(f"{layer}.lora_magnitude_vector.default.weight")
        return None if stored is None else read_tensor(stored).float()

    def _folded(self, layer: str, weight_OI: Tensor, dtype: torch.dtype) -> Tensor:
        """The adapted layer's weight, a few rows at a time in fp32."""
        a_RI, b_OR, scaling = self._factors(layer, weight_OI)
        lengths_O = self._lengths(layer)
        result_OI = torch.empty(weight_OI.shape, dtype=dtype)
        for rows in row_tiles(weight_OI):
            folded_OI = torch.addmm(weight_OI[rows].float(), b_OR[rows], a_RI, alpha=scaling)
            if lengths_O is not None:
                folded_OI *= (lengths_O[rows] / folded_OI.norm(dim=1))[:, None]
            result_OI[rows] = folded_OI.to(dtype)
        return result_OI


def open_adapter(model: Any, folder: Path) -> FileAdapter:
    """The adapter of a folder, checked against its base: a plain model, which may have no memory. No data is read.

    Raises `CheckpointError` where the two do not fit. Whether it is the right base, `require_base` says.
    """
    config = read_adapter_config(folder)
    if config.task_type not in (None, task_type(model)):
        raise CheckpointError(
            f"{folder}: an adapter for {config.task_type}; {type(model).__name__} needs one for {task_type(model)}"
        )
    return FileAdapter(read_stored(model, folder, folder / WEIGHTS_NAME, config))


def require_base(model: Any, folder: Path, base_folder: Path) -> None:
    """Raise `CheckpointError` unless `model`, whose weights lie in `base_folder`, is what the adapter belongs to."""
    known = read_adapter_base(folder)
    if known is not None and not known.fits(found := fingerprint(model), head_of(model)):
        raise CheckpointError(
            f"{folder}: this adapter was trained on another model than {base_folder} now holds: other "
            f"{'weights' if known.fingerprint != found else 'values in lm_head'} (fingerprint "
            f"{known.fingerprint[:12]}, found {found[:12]}). Put the original weights of {known.name} back; on other "
            "weights an adapter's answers are arbitrary"
        )
