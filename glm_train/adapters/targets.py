"""Which modules of a model are adapted, and which are trained whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from glm_train.adapters.settings import SPLITS, LoraSettings
from glm_train.errors import ConfigError, nearest
from glm_train.model.norm import GlmRMSNorm

#: Every linear layer of the decoder, by the last part of its name. Gate and up projection are one fused layer.
DECODER_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj")
ALL_LINEAR = "all-linear"  # PEFT's word for the same
#: Classification heads start from random values, so they are trained whole, always.
CLASSIFIER = "score"
_FUSED = dict.fromkeys(("gate_proj", "up_proj"), " gate_proj and up_proj are one layer here: gate_up_proj.")
HEAD, EMBEDDING = "lm_head", "embed_tokens"
TIED = ("model.embed_tokens", HEAD)  # the two names of one matrix, where a model ties them


def matches(name: str, target: str) -> bool:
    """PEFT's rule: the whole dotted name, or its last parts. `proj` does not match `q_proj`."""
    return name == target or name.endswith("." + target)


def adapted_names(model: nn.Module, settings: LoraSettings) -> list[str]:
    """The dotted names of the linear layers that `settings.targets` mean, in the model's order.

    Raises ConfigError for a target that matches no linear layer, with the names that exist.
    """
    linears = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    if settings.targets is None or ALL_LINEAR in settings.targets:
        targets = [*DECODER_LINEARS, *(t for t in settings.targets or () if t != ALL_LINEAR)]
    else:
        targets = list(settings.targets)
    _require_matches("adapter.targets", targets, linears, "linear layer")
    chosen = [name for name in linears if any(matches(name, target) for target in targets)]
    faults = [_refusal(model, name, settings) for name in chosen]
    for name in chosen if settings.init in SPLITS else ():
        if (side := min(linears[name].in_features, linears[name].out_features)) < settings.r:
            faults.append(
                f"adapter.r is {settings.r}, but {name} is {linears[name].out_features} x "
                f"{linears[name].in_features}: adapter.init={settings.init} takes at most {side} parts of it;"
                " lower adapter.r"
            )
            break
    if faults := [fault for fault in faults if fault]:
        raise ConfigError("\n".join(faults))
    return chosen


def whole_names(model: nn.Module, settings: LoraSettings, adapted: Iterable[str]) -> list[str]:
    """The dotted names of the modules that are trained whole: `settings.modules_to_save` and a classification head.

    Raises ConfigError for a name that matches none, or one that is adapted too.
    """
    whole = (nn.Linear, nn.Embedding, GlmRMSNorm)
    parts = {name: part for name, part in model.named_modules() if isinstance(part, whole)}
    _require_matches("adapter.modules_to_save", settings.modules_to_save, parts, "module with weights")
    wanted = [*settings.modules_to_save, CLASSIFIER]
    chosen = [name for name in parts if any(matches(name, target) for target in wanted)]
    if HEAD in chosen and is_tied(model):  # one matrix: it goes by its first name
        chosen = list(dict.fromkeys(TIED[0] if name == HEAD else name for name in chosen))
    if both := [name for name in chosen if name in set(adapted)]:
        raise ConfigError(
            f"{both[0]} is named by adapter.modules_to_save and is adapted too: train it whole or adapt it, not both"
        )
    return chosen


def is_tied(model: nn.Module) -> bool:
    """True for a language model whose head is its embedding."""
    return hasattr(model, HEAD) and bool(model.config.tie_word_embeddings)  # type: ignore[union-attr]


def short_names(chosen: Sequence[str], everything: Iterable[str]) -> list[str]:
    """The last parts of the names where they mean exactly `chosen` among `everything`; else the whole names."""
    last = sorted({name.rpartition(".")[2] for name in chosen})
    meant = {name for name in everything if any(matches(name, target) for target in last)}
    return last if meant == set(chosen) else sorted(chosen)


def names_to_save(chosen: Sequence[str], everything: Iterable[str]) -> list[str]:
    """As `short_names`, by PEFT's looser rule for modules that are trained whole: there `norm` means `input_layernorm`
    too."""
    last = sorted({name.rpartition(".")[2] for name in chosen})
    meant = {name for name in everything if name.endswith(tuple(last))}
    return last if meant == set(chosen) else sorted(chosen)


def _refusal(model: nn.Module, name: str, settings: LoraSettings) -> str | None:
    if name == CLASSIFIER:
        return f"adapter.targets: the classification head ({CLASSIFIER}) is trained whole; do not name it"
    if name != HEAD:
        return None
    if is_tied(model):
        return (
            "adapter.targets: lm_head shares its weight with embed_tokens here, and an adapter would part them; train"
            " it whole with adapter.modules_to_save=[embed_tokens], or leave it out"
        )
    if settings.dropout:
        return (
            "adapter.targets: lm_head takes no dropout, for the loss reads its weight and not its output; set"
            " adapter.dropout=0, or leave lm_head out"
        )
    if settings.new_tokens:
        return "adapter.targets: lm_head cannot be adapted and have new tokens; leave one of the two out"
    return None


def _require_matches(key: str, targets: Sequence[str], parts: Iterable[str], kind: str) -> None:
    parts = list(parts)
    unmatched = [target for target in targets if not any(matches(name, target) for name in parts)]
    if unmatched:
        known = list(dict.fromkeys(name.rpartition(".")[2] for name in parts))
        said = " ".join(
            f"{target!r} matches no {kind}." + (_FUSED.get(target) or nearest(target, known))
            for target in unmatched
        )
        raise ConfigError(f"{key}: {said} There are: {', '.join(known)}")
