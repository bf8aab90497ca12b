"""What an adapter is made of. No torch here: configuration is checked before anything heavy is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass

from glm_train.errors import ConfigError, nearest

#: First values of the two factors. `default`: A as torch makes a linear layer, B zero (Hu et al., arXiv 2106.09685);
#: `gaussian`: A normal with deviation 1/r, B zero; `pissa`: the r largest singular triplets of the weight
#: (arXiv 2404.02948); `olora`: the first r columns of its QR decomposition (arXiv 2406.01775).
INITIAL_VALUES = ("default", "gaussian", "pissa", "olora")
SPLITS = ("pissa", "olora")  # those that start from parts of the weight
MOST_RANK, MOST_ALPHA = 65536, 10**9


@dataclass(frozen=True)
class LoraSettings:
    """One LoRA adapter.

    Arguments:
        r: the rank of the change of each weight.
        alpha: the change is B A alpha / r, or B A alpha / sqrt(r) with `rslora` (arXiv 2312.03732).
        dropout: probability with which an input of the low-rank path is zeroed in training.
        targets: names of linear layers, as PEFT matches them: `q_proj`, `mlp.down_proj`, or a whole dotted name. None
            takes all linear layers of the decoder, never the head.
        dora: train the length of each row of the weight apart from its direction (arXiv 2402.09353).
        init: one of `INITIAL_VALUES`.
        modules_to_save: names of modules that are trained whole and saved with the adapter, such as `embed_tokens`,
            `lm_head`, `model.norm`. A classification head is always one of them.
        new_tokens: ids of tokens whose embedding (and row of the head) is trained. Spellings are turned into ids by
            `token_ids`.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    rslora: bool = False
    dora: bool = False
    init: str = "default"
    modules_to_save: tuple[str, ...] = ()
    new_tokens: tuple[str | int, ...] = ()

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)


def check_settings(settings: LoraSettings) -> None:
    """Raise ConfigError with all faults that show without a model."""
    faults = []
    if type(settings.r) is not int or not 1 <= settings.r <= MOST_RANK:
        faults.append(f"adapter.r: must be a whole number from 1 to {MOST_RANK}, such as 8")
    if not _is_number(settings.alpha) or settings.alpha <= 0:
        faults.append(
            f"adapter.alpha: must be a number above 0 and at most {MOST_ALPHA}, such as twice adapter.r"
        )
    if not _is_number(settings.dropout) or not 0 <= settings.dropout < 1:
        faults.append(f"adapter.dropout: {settings.dropout!r} must be at least 0 and below 1")
    if settings.init not in INITIAL_VALUES:
        faults.append(
            f"adapter.init: unknown choice {settings.init!r}; expected one of {', '.join(INITIAL_VALUES)}."
            + nearest(str(settings.init), INITIAL_VALUES)
        )
    if settings.targets is not None and not settings.targets:
        faults.append(
            "adapter.targets: an empty list adapts nothing; leave it out (null) for all linear layers"
        )
    for name in ("targets", "modules_to_save"):
        values = getattr(settings, name) or ()
        if isinstance(values, str):
            faults.append(f"adapter.{name}: expected a list of names, found the text {values!r}")
        elif any(not isinstance(value, str) or not value for value in values):
            faults.append(f"adapter.{name}: expected names of modules, found {list(values)!r}")
    if faults:
        raise ConfigError("\n".join(faults))


def token_ids(new_tokens: tuple[str | int, ...], tokenizer: object) -> tuple[int, ...]:
    """The ids of tokens given by id or spelling, sorted. `tokenizer` is a `GlmTokenizer`.

    Raises ConfigError for spellings that are no single token.
    """
    find = tokenizer.token_to_id  # type: ignore[attr-defined]
    found = {token: find(token) if isinstance(token, str) else token for token in new_tokens}
    if missing := [token for token, id_ in found.items() if id_ is None]:
        raise ConfigError(
            f"adapter.new_tokens: the tokenizer has no token {', '.join(repr(token) for token in missing)}; add it to"
            " the tokenizer's files first, or name a token that is there"
        )
    return tuple(sorted(set(found.values())))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_ALPHA
