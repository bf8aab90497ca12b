"""What `generate` was asked for: its arguments, completed by the folder's generation_config.json, and checked.

Shapes: B prompts, T prompt tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from glm_train.errors import CheckpointError, nearest
from glm_train.model.sampling import Sampling

DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True)
class Settings:
    """A checked request. `sampling` None is greedy."""

    new_tokens: int
    sampling: Sampling | None
    repetition_penalty: float
    stop_ids: list[int]
    pad_id: int
    num_return_sequences: int


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


# Each with what it must be. The least temperature keeps scores / temperature inside fp32.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "do_sample": (lambda v: isinstance(v, bool), "True or False"),
    "temperature": (
        lambda v: _is_number(v) and v >= 1e-6,
        "a number above 0 (1e-6 or more); do_sample=False is greedy",
    ),
    "top_k": (lambda v: _is_int(v, 0), "a whole number, 0 for no limit"),
    "top_p": (lambda v: _is_number(v) and 0 < v <= 1, "above 0 and at most 1"),
    "min_p": (lambda v: _is_number(v) and 0 <= v <= 1, "from 0 to 1"),
    "repetition_penalty": (lambda v: _is_number(v) and v > 0, "a number above 0; 1 is no penalty"),
    "max_new_tokens": (lambda v: _is_int(v, 1), "a whole number, at least 1"),
    "max_length": (lambda v: _is_int(v, 1), "a whole number of tokens, prompt and answer together"),
    "num_return_sequences": (lambda v: _is_int(v, 1), "a whole number, at least 1"),
}


# What would make other tokens, and the value at which it does not.
_NOT_FOLLOWED = {
    "num_beams": 1,
    "min_new_tokens": 0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "penalty_alpha": 0.0,
    "bad_words_ids": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "guidance_scale": 1.0,
}


def settle(model: Any, prompt_tokens: int, default_stops: list[int], given: dict[str, Any]) -> Settings:
    """The settings of one call: `given` are the arguments by name, None where the caller said nothing."""
    stated = getattr(model, "generation_config", None) or {}
    if model.config.bidirectional:
        raise ValueError("a bidirectional model reads whole texts: it has no next token to generate")
    if unfollowed := sorted(
        name for name, plain in _NOT_FOLLOWED.items() if stated.get(name, plain) not in (plain, None)
    ):
        raise CheckpointError(
            f"generation_config asks for {', '.join(unfollowed)}, which generate does not do; remove it from"
            " generation_config.json (in Python: from model.generation_config)"
        )
    pick = _Picker(given, stated)
    sample = pick("do_sample")
    rows = given["num_return_sequences"]
    rows = 1 if rows is None else _checked("num_return_sequences", rows)
    sampling = None
    if sample:
        values = {name: pick(name) for name in ("temperature", "top_k", "top_p", "min_p")}
        sampling = Sampling(**{name: value for name, value in values.items() if value is not None})
    else:
        _refuse_without_effect(given, rows)
    stops = given["eos_token_id"] if given["eos_token_id"] is not None else default_stops
    stops = _stop_ids(stops, model.config.vocab_size)
    return Settings(
        new_tokens=_new_tokens(pick, prompt_tokens),
        sampling=sampling,
        repetition_penalty=float(pick("repetition_penalty") or 1.0),
        stop_ids=stops,
        pad_id=_pad_id(given["pad_token_id"], stated, model.config, stops),
        num_return_sequences=rows,
    )


def random_source(model: Any, seed: int | None, generator: torch.Generator | None) -> torch.Generator | None:
    """The random numbers to draw with; None is torch's own, as seeded by `torch.manual_seed`."""
    device = next(model.parameters()).device
    if seed is not None and generator is not None:
        raise ValueError("seed and generator are two ways to fix what is drawn; give one")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, found {type(generator).__name__}")
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"the generator draws on {generator.device}, the model is on {device}: use one of its device"
        )
    if seed is None:
        return generator
    if not _is_int(seed, 0) or seed >= 2**63:
        raise ValueError(f"seed must be a whole number from 0 to 2**63 - 1, found {seed!r}")
    return torch.Generator(device).manual_seed(int(seed))


def refuse_unknown(unknown: dict[str, Any], known: Sequence[str]) -> None:
    """A TypeError for arguments that `generate` does not have."""
    for name in unknown:
        raise TypeError(
            f"generate() has no argument {name!r}.{nearest(name, known)} It takes {', '.join(known)}."
        )


def check_prompt(input_ids: Any, inputs: Any, mask: Any, vocabulary: int) -> Tensor:
    """The prompts (B, T), given by either name; refuses ids that are none, and a mask (B, T) that is not of ones and
    zeros with a real token at the end of every row."""
    if (input_ids is None) == (inputs is None):
        raise TypeError("generate() takes the prompts as input_ids (or inputs, its other name)")
    ids = inputs if input_ids is None else input_ids
    if not isinstance(ids, Tensor):
        cure = "pass **batch" if hasattr(ids, "keys") else "a tokenizer makes one with return_tensors='pt'"
        raise TypeError(f"input_ids must be a tensor (batch, tokens), found a {type(ids).__name__}; {cure}")
    if ids.ndim != 2 or 0 in ids.shape:
        raise ValueError(f"input_ids must be (batch, at least one token), found shape {tuple(ids.shape)}")
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"input_ids must be whole numbers (torch.long), found {ids.dtype}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise ValueError(f"input_ids must be from 0 to {vocabulary - 1}, found {low if low < 0 else high}")
    if mask is not None:
        _check_mask(ids, mask)
    return ids


def _check_mask(input_ids: Tensor, mask: Any) -> None:
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        found = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must have the shape of input_ids {tuple(input_ids.shape)}, found {found}"
        )
    if bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError("attention_mask must be 1 for real tokens and 0 for padding")
    real = mask.bool()
    if not bool(real.any(-1).all()):
        raise ValueError(
            f"attention_mask hides all of row {int(real.any(-1).long().argmin())}: it has no prompt"
        )
    if not bool(real[:, -1].all()):
        row = int(real[:, -1].long().argmin())
        raise ValueError(
            f"row {row} is padded on the right, where its answer would begin: pad on the left "
            "(tokenizer.padding_side = 'left')"
        )


class _Picker:
    """The value of a setting: the argument's, else generation_config's, else None; checked."""

    def __init__(self, given: dict[str, Any], stated: dict[str, Any]) -> None:
        self.given, self.stated = given, stated

    def __call__(self, name: str) -> Any:
        if (value := self.given.get(name)) is not None:
            return _checked(name, value)
        if (value := self.stated.get(name)) is None:
            return None
        try:
            return _checked(name, value)
        except ValueError as error:
            raise CheckpointError(f"the model's generation_config: {error}") from None


def _checked(name: str, value: Any) -> Any:
    fits, expected = _RULES[name]
    if not fits(value):
        raise ValueError(f"{name} must be {expected}, found {value!r}")
    return value


def _refuse_without_effect(given: dict[str, Any], rows: int) -> None:
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "generator")
    if idle := [name for name in names if given[name] is not None]:
        raise ValueError(
            f"{', '.join(idle)} without do_sample=True: the likeliest token is taken, nothing is drawn"
        )
    if rows > 1:
        raise ValueError(
            "num_return_sequences above 1 needs do_sample=True: greedy answers would all be the same"
        )


def _new_tokens(pick: _Picker, prompt_tokens: int) -> int:
    """How many tokens to make at most: arguments before generation_config, new tokens before the whole length."""
    if pick.given["max_new_tokens"] is not None and pick.given["max_length"] is not None:
        raise ValueError("max_new_tokens and max_length both limit the answer; give one")
    if pick.given["max_length"] is None and (new := pick("max_new_tokens")) is not None:
        return int(new)
    if (whole := pick("max_length")) is None:
        return DEFAULT_NEW_TOKENS
    if whole <= prompt_tokens:
        raise ValueError(
            f"max_length {whole} counts the prompt, which has {prompt_tokens} tokens: nothing is left to generate; "
            "max_new_tokens counts the answer alone"
        )
    return int(whole) - prompt_tokens


def _stop_ids(ids: Any, vocabulary: int) -> list[int]:
    """An id, or several, as a list."""
    if isinstance(ids, Tensor):
        ids = ids.tolist()
    found = [ids] if isinstance(ids, Integral) else ids
    if not isinstance(found, list | tuple) or not all(_is_int(i, 0) and i < vocabulary for i in found):
        raise ValueError(f"eos_token_id must be ids from 0 to {vocabulary - 1}, found {ids!r}")
    return [int(i) for i in found]


def _pad_id(given: Any, stated: dict[str, Any], config: Any, stops: list[int]) -> int:
    """What follows a row's stop token. As in transformers, the first stop id where nothing names a padding id."""
    for value in (given, stated.get("pad_token_id"), config.pad_token_id):
        if value is not None:
            if not _is_int(value, 0) or value >= config.vocab_size:
                raise ValueError(
                    f"pad_token_id must be an id from 0 to {config.vocab_size - 1}, found {value!r}"
                )
            return int(value)
    return stops[0] if stops else 0
