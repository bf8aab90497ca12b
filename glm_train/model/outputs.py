"""What a forward returns: named fields that also unpack and index as the tuple of those that are set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils._pytree import register_pytree_node


class ModelOutput:
    """Base of the outputs: `out.logits`, `out["logits"]`, `out[0]`, `logits, cache = out` and `dict(out)` all work.

    torch sees the tensors inside (a pytree), as its wrappers for parallel training need.
    """

    def __init_subclass__(cls) -> None:
        register_pytree_node(cls, _flatten, lambda values, _: cls(*values))

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        return tuple(value for _, value in self.items())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Names and values of the fields that are not None."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return tuple((name, value) for name, value in pairs if value is not None)

    def keys(self) -> tuple[str, ...]:
        """The names of the fields that are not None."""
        return tuple(name for name, _ in self.items())

    def values(self) -> tuple[Any, ...]:
        """The fields that are not None."""
        return self.to_tuple()

    def get(self, name: str, default: Any = None) -> Any:
        """A field by its name; `default` where it is None or no field."""
        return dict(self.items()).get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.to_tuple())

    def __len__(self) -> int:
        return len(self.to_tuple())


def _flatten(output: Any) -> tuple[list[Any], None]:
    return [getattr(output, field.name) for field in fields(output)], None


@dataclass(eq=False)  # tensors have no one answer to ==
class BaseModelOutput(ModelOutput):
    """Of the bare model: hidden states after the last norm, (B, T, H)."""

    last_hidden_state: Tensor
    past_key_values: Any = None  # a cache object, or the legacy tuple of pairs
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class CausalLMOutput(ModelOutput):
    """Of the causal language model: logits (B, T or fewer, V) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None  # a cache object, or the legacy tuple of pairs
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class SequenceClassifierOutput(ModelOutput):
    """Of the sequence classifier: logits (documents, num_labels) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class TokenClassifierOutput(ModelOutput):
    """Of the token classifier: logits (B, T, num_labels) and, where labels were given, the mean loss."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
