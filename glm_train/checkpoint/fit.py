"""Does a folder's list of tensors fit a module? Which stored tensor fills which parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from glm_train.checkpoint.fit_report import Misfits, report
from glm_train.checkpoint.index import TensorIndex
from glm_train.checkpoint.safetensors_file import StoredTensor
from glm_train.errors import CheckpointError

_BODY, _SCORE = "model.", "score."
_HEADS = ("lm_head.", _SCORE)
# Computed from the config, yet stored by some older writers.
_COMPUTED = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")


@dataclass(frozen=True)
class Place:
    """One tensor of a module with all its names there: two for a tied head."""

    names: tuple[str, ...]
    target: Tensor


@dataclass(frozen=True)
class Slot(Place):
    """A place and the stored tensor that fills it.

    `source` is the stored tensor's name; `copies` are further stored tensors for other names of the same place.
    """

    source: str
    stored: StoredTensor
    copies: tuple[str, ...] = ()


def places(module: nn.Module) -> list[Place]:
    """The module's parameters and persistent buffers, each once."""
    state = module.state_dict(keep_vars=True)
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return [Place(tuple(group), state[group[0]]) for group in names.values()]


def match(module: nn.Module, index: TensorIndex) -> list[Slot]:
    """Pair every tensor of the module with a stored one.

    A head that the module does not have is passed over in the folder. A classification head that the folder does not
    have is left out: it is new. Raises `CheckpointError` listing all else that does not fit.
    """
    wanted = places(module)
    known = {name for place in wanted for name in place.names}
    sources = _sources(known, index.tensors)
    makes_a_head = not any(name.startswith(_SCORE) for name in index.tensors)
    slots: list[Slot] = []
    missing: list[str] = []
    for place in wanted:
        found = [sources[name] for name in place.names if name in sources]
        if found:
            slots.append(Slot(place.names, place.target, found[0], index.tensors[found[0]], tuple(found[1:])))
        elif not (makes_a_head and place.names[0].startswith(_SCORE)):
            missing.append(place.names[0])
    extra = [source for name, source in sources.items() if name not in known]
    shapes = [
        (slot.source, slot.stored.shape, tuple(slot.target.shape))
        for slot in slots
        if slot.stored.shape != tuple(slot.target.shape)
    ]
    kinds = [f"{slot.source} is {slot.stored.dtype}" for slot in slots if not _same_kind(slot)]
    misfits = Misfits(missing, extra, shapes, kinds)
    if any(misfits):
        raise CheckpointError(report(type(module).__name__, index, misfits))
    return slots


def _sources(wanted: Iterable[str], stored: Iterable[str]) -> dict[str, str]:
    """Name in the module -> name in the folder, without heads that the module lacks.

    A head puts `model.` before the body's names; where only one of the two sides has a head, that is bridged.
    """
    wanted = list(wanted)
    lacking = tuple(head for head in _HEADS if not any(name.startswith(head) for name in wanted))
    names = [name for name in stored if not name.endswith(_COMPUTED)]
    headed = any(name.startswith(_BODY) for name in names)
    wants_head = any(name.startswith(_BODY) for name in wanted)
    names = [name for name in names if not name.startswith(lacking)]
    if headed and not wants_head:
        return {name.removeprefix(_BODY): name for name in names}
    if wants_head and not headed:
        return {name if name.startswith(_HEADS) else _BODY + name: name for name in names}
    return {name: name for name in names}


def _same_kind(slot: Slot) -> bool:
    """Floating to floating, whole to whole; 8-bit floats mean nothing without the scales beside them."""
    stored, target = slot.stored.dtype, slot.target.dtype
    if not target.is_floating_point:
        return stored == target
    return stored.is_floating_point and stored.itemsize > 1
