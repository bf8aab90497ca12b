"""Do a tokenizer and a model belong together? A wrong pair trains without an error, so a run asks first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig


class Vocabulary(Protocol):
    """What is asked of a tokenizer."""

    def __len__(self) -> int: ...

    def id_to_token(self, id_: int, /) -> str | None: ...

    @property
    def token_ids(self) -> Collection[int]: ...

    @property
    def special_tokens(self) -> Mapping[str, int]: ...


def check_vocabulary(config: GlmConfig, tokenizer: Vocabulary) -> None:
    """Raise `CheckpointError`, with every number, unless the two belong together.

    Every token's id has a row in the model's embedding (`vocab_size` may be larger: GLM-4 pads 151343 to
    151552); the model's padding id is a token; its stop ids are control tokens.
    """
    faults = []
    outside = sum(token_id >= config.vocab_size for token_id in tokenizer.token_ids)
    if outside > 0:
        faults.append(
            f"{outside} of the tokenizer's {len(tokenizer)} tokens have ids of {config.vocab_size} or more, "
            f"for which the model (vocab_size {config.vocab_size}) has no embedding"
        )
    if config.pad_token_id is not None and tokenizer.id_to_token(config.pad_token_id) is None:
        faults.append(
            f"pad_token_id {config.pad_token_id} is not a token of the tokenizer ({len(tokenizer)} tokens)"
        )
    control = set(tokenizer.special_tokens.values())
    for stop in config.eos_token_ids:
        if stop not in control:
            token = tokenizer.id_to_token(stop)
            is_what = "no token" if token is None else f"the ordinary token {token!r}"
            faults.append(f"eos_token_id {stop} is {is_what} of the tokenizer ({len(tokenizer)} tokens)")
    if faults:
        raise CheckpointError(
            "tokenizer and model do not belong together:\n"
            + "".join(f"  {fault}\n" for fault in faults)
            + "Use the tokenizer files of the model's own release."
        )
