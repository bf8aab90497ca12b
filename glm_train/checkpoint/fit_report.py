"""What to say of a folder whose tensors do not fit a model: all of it at once, and what to do."""

from __future__ import annotations

from typing import NamedTuple

from glm_train.checkpoint.index import TensorIndex

_SHOWN = 8
_SCORE, _BIAS = "score.weight", "score.bias"
Shape = tuple[int, ...]


class Misfits(NamedTuple):
    """Names that the folder lacks, names that the model lacks, (name, stored shape, model's shape), and
    sentences about tensors that are no plain weights."""

    missing: list[str]
    extra: list[str]
    shapes: list[tuple[str, Shape, Shape]]
    kinds: list[str]


def report(model: str, index: TensorIndex, misfits: Misfits) -> str:
    """The message: the folder, every misfit (eight of a kind by name), and the cure."""
    lines = [f"{index.folder}: the weights do not fit {model}."]
    shapes = [
        f"{name} is {list(stored)}, the model needs {list(needed)}" for name, stored, needed in misfits.shapes
    ]
    for title, names in (
        ("missing in the folder", misfits.missing),
        ("not in the model", misfits.extra),
        ("of another shape", shapes),
        ("not plain floating-point weights (a quantised model?)", misfits.kinds),
    ):
        if names:
            more = ", ..." if len(names) > _SHOWN else ""
            lines.append(f"  {title} ({len(names)}): {', '.join(names[:_SHOWN])}{more}")
    lines.append(_cure(index, misfits))
    return "\n".join(lines)


def _cure(index: TensorIndex, misfits: Misfits) -> str:
    missing, extra, shapes, kinds = misfits
    held = _held(index)
    if missing == ["lm_head.weight"] and not (extra or shapes or kinds):
        if held == "GlmModel":
            return "The folder holds a model without a head; load it as GlmModel."
        return f"The folder holds a {held}, which has no language-modelling head; load it as {held}."
    if {*missing, *extra} == {_BIAS} and not (shapes or kinds):
        return f"The folder holds a {held}: load it as {held}. {_start_anew()}"
    if shapes and all(name in (_SCORE, _BIAS) for name, _, _ in shapes) and not (missing or extra or kinds):
        _, stored, needed = shapes[0]
        return (
            f"The folder's classification head has {stored[0]} labels, {needed[0]} are asked for (num_labels, "
            f"id2label). To use this head, leave both as in the folder's config.json. {_start_anew()}"
        )
    return "config.json and the weights belong to different models, or the model is of another kind."


def _held(index: TensorIndex) -> str:
    """The class whose tensors these are."""
    if _BIAS in index.tensors:
        return "GlmForTokenClassification"
    if _SCORE in index.tensors:
        return "GlmForSequenceClassification"
    return "GlmForCausalLM" if "lm_head.weight" in index.tensors else "GlmModel"


def _start_anew() -> str:
    return (
        "To start a new head, give the folder of a causal LM, or save GlmModel.from_pretrained of this one."
    )
