"""What a forward returns: named fields that also unpack and index as the tuple of those that are set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor


class ModelOutput:
    """Base of the outputs: `out.logits`, `out["logits"]`, `out[0]` and `logits, cache = out` all work."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: str | int | slice) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that are not None, so that `dict(out)` and `**out` work."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)  # type: ignore[arg-type]


@dataclass
class BaseModelOutput(ModelOutput):
    """Of the bare model: hidden states after the last norm, (B, T, H)."""

    last_hidden_state: Tensor
    past_key_values: Any = None  # a cache object, or the legacy tuple of pairs
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class CausalLMOutput(ModelOutput):
    """Of the causal language model: logits (B, T or fewer, V) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None  # a cache object, or the legacy tuple of pairs
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """Of the sequence classifier: logits (documents, num_labels) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """Of the token classifier: logits (B, T, num_labels) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
