"""Is what was written the model that was meant? Every tensor is read again, and both models run on one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from glm_train.adapters.layerwise import output_of
from glm_train.adapters.opened import Opened
from glm_train.bar import Progress, silent
from glm_train.checkpoint.index import read_index
from glm_train.checkpoint.safetensors_file import Deferred
from glm_train.checkpoint.weights import read_tensor
from glm_train.errors import CheckFailed

#: How far the logits may be from the run's, as a share of the run's greatest one. Merging in fp32 costs 1e-6 to 1e-5,
#: and 2e-4 where random weights of 40 layers amplify it most. A weight in bf16 keeps 8 bits: random models are off by
#: 0.002 to 0.02.
TOLERANCES = {torch.float32: 5e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
_NOTHING_KEPT = "Nothing was kept."


@dataclass(frozen=True)
class Agreement:
    """How a copy's logits compare with the run's, both in fp32, for `tokens` tokens.

    `difference` is the greatest one, `scale` the run's greatest logit, `tolerance` a share of it; at `agreeing` of
    `positions` the greatest logit is the same one. `effect` is what the low-rank change of an adapter does to a logit
    at most; None without one.
    """

    tokens: int
    difference: float
    scale: float
    tolerance: float
    agreeing: int
    positions: int
    effect: float | None = None

    @property
    def share(self) -> float:
        """The difference as a share of the greatest logit."""
        return self.difference / self.scale if self.scale else self.difference


def tolerance_of(state: Mapping[str, Deferred]) -> float:
    """The tolerance of a model with these tensors: that of the narrowest dtype among them."""
    return max(TOLERANCES.get(tensor.dtype, TOLERANCES[torch.float32]) for tensor in state.values())


def same_tensors(state: Mapping[str, Deferred], folder: Path, progress: Progress = silent) -> None:
    """Raise `CheckFailed` unless `folder` holds exactly the tensors of `state`, bit for bit: each is made again."""
    found = read_index(folder).tensors
    if other := sorted(found.keys() ^ state.keys()):
        raise CheckFailed(
            f"{len(other)} tensor(s) are missing or too many, such as {other[0]}. {_NOTHING_KEPT}"
        )
    total, done = sum(tensor.nbytes for tensor in state.values()), 0
    for name, tensor in state.items():
        progress("comparing", done, total)
        done += tensor.nbytes
        stored = found[name]
        if (stored.dtype, stored.shape) != (tensor.dtype, tensor.shape) or not _same_bits(
            read_tensor(stored), tensor.make()
        ):
            raise CheckFailed(
                f"tensor {name} was written with other values. {_NOTHING_KEPT} Please report this."
            )


def same_answers(
    run: Opened, copy: Opened, input_ids_BT: Tensor, tolerance: float, progress: Progress = silent
) -> Agreement:
    """Run both models from their files, an adapter beside its base, and compare the logits.

    An adapter that `copy` has in its weights is first merged in fp32 and compared on its own: rounding cannot hide a
    wrong merge. Raises `CheckFailed` above `tolerance`, and for logits that are not finite.
    """
    count, adapter = 0, run.adapter

    def one_more() -> None:
        nonlocal count
        count += 1
        progress("running", count, 0)

    def answers(of: Opened) -> Tensor:
        if (own := of.adapter) is None:
            return output_of(of.model, input_ids_BT, lambda n, t: of.plain(n, t).float(), on_module=one_more)
        return output_of(
            of.model, input_ids_BT, lambda n, t: own.replaced(n, t).float(), own.beside, one_more
        )

    expected = answers(run)
    if not torch.isfinite(expected).all():
        raise CheckFailed(
            "the run's model gives logits that are not finite, so nothing can be compared: its weights have diverged,"
            " or are damaged"
        )
    if adapter is not None and copy.adapter is None:
        exact = output_of(
            run.model, input_ids_BT, lambda n, t: adapter.merged(n, t, torch.float32), on_module=one_more
        )
        found = _agreement(expected, exact, input_ids_BT, TOLERANCES[torch.float32])
        _require(found, "merged in fp32, the adapter's logits", "Please report this.")
    result = _agreement(expected, answers(copy), input_ids_BT, tolerance)
    cure = "Export with --dtype fp32, which rounds nothing, or allow more with --tolerance."
    _require(result, "the exported model's logits", cure)
    if adapter is None:
        return result
    plain = output_of(
        run.model, input_ids_BT, lambda n, t: adapter.replaced(n, t).float(), on_module=one_more
    )
    return replace(result, effect=(plain - expected).abs().max().item())


def _agreement(expected: Tensor, found: Tensor, input_ids_BT: Tensor, tolerance: float) -> Agreement:
    if expected.shape != found.shape:
        raise CheckFailed(
            f"the exported model gives {tuple(found.shape)} logits, the run's {tuple(expected.shape)}"
        )
    same = expected.argmax(-1) == found.argmax(-1)
    return Agreement(
        tokens=input_ids_BT.numel(),
        difference=(found - expected).abs().max().item(),
        scale=expected.abs().max().item(),
        tolerance=tolerance,
        agreeing=int(same.sum()),
        positions=same.numel(),
    )


def _require(found: Agreement, what: str, cure: str) -> None:
    if not found.share <= found.tolerance:  # NaN is not
        raise CheckFailed(
            f"{what} differ from the run's by up to {found.difference:.3g}, which is {found.share:.2g} of the greatest"
            f" ({found.scale:.3g}); {found.tolerance:g} is allowed. {_NOTHING_KEPT} {cure}"
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    first, second = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(first, second)
