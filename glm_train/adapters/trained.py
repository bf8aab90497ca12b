"""Modules that are trained whole beside an adapter, and new tokens' rows. Their class changes, their names do not.

The dtype rule: what is trained is fp32, what is frozen stays as it is. An embedding or a norm that is trained hands its
results back in the frozen model's dtype; a head gives fp32 scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glm_train.adapters.targets import EMBEDDING, HEAD
from glm_train.errors import ConfigError
from glm_train.model.norm import GlmRMSNorm

DELTA = "trainable_tokens_delta"  # PEFT's name for the rows of new tokens


class WideLinear(nn.Linear):
    """A linear layer in fp32, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class WideEmbedding(nn.Embedding):
    """An embedding in fp32 for a narrower model."""

    narrow: torch.dtype

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).to(self.narrow)


class WideNorm(GlmRMSNorm):
    """A norm whose weight is fp32 in a narrower model."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).to(x.dtype)


_WIDE: dict[type, type] = {nn.Linear: WideLinear, nn.Embedding: WideEmbedding, GlmRMSNorm: WideNorm}
_PLAIN = {wide: plain for plain, wide in _WIDE.items()}


def train_whole(part: nn.Module, narrow: torch.dtype) -> None:
    """Make all parameters of a linear layer, an embedding or a norm trained fp32 ones, in a model of dtype `narrow`."""
    for parameter in part.parameters():
        # In place, so that a tied weight stays tied.
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if narrow != torch.float32:
        part.__class__ = _WIDE[type(part)]
        if isinstance(part, WideEmbedding):
            part.narrow = narrow


class EmbeddingWithNewTokens(nn.Embedding):
    """A frozen embedding in which some ids have trained rows of their own."""

    trainable_tokens_delta: (
        nn.Parameter
    )  # (n, H), fp32: the rows themselves, as in PEFT, not a change of them
    token_ids: Tensor  # (n,)
    row_of_id: Tensor  # (V,) int32: which trained row an id has, -1 for none

    def forward(self, ids: Tensor) -> Tensor:
        rows = self.row_of_id[ids].long()
        plain = super().forward(ids)
        trained = nn.functional.embedding(rows.clamp(min=0), self.trainable_tokens_delta).to(plain.dtype)
        return torch.where((rows >= 0)[..., None], trained, plain)


class HeadWithNewTokens(nn.Linear):
    """A frozen head in which some ids have trained rows; of a tied model, the embedding's.

    The frozen matrix goes by another name: what shards a model looks its parameters up by their names.
    """

    frozen_weight: nn.Parameter
    token_ids: Tensor
    tied_to: tuple[EmbeddingWithNewTokens, ...]  # in a tuple, so that it is no submodule

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The frozen matrix with the trained rows in it, differentiable in those. A copy: V x H."""
        home: Any = self.tied_to[0] if self.tied_to else self
        delta = home.trainable_tokens_delta.to(self.frozen_weight.dtype)
        return self.frozen_weight.index_copy(0, self.token_ids, delta)


def add_new_tokens(model: Any, ids: tuple[int, ...], *, with_head: bool = True) -> list[str]:
    """Give `ids` trained rows in the embedding and, with `with_head`, in a language model's head, from the values that
    are there; a tied head always has the embedding's. Returns the names of the modules that have rows of their own.
    Comes after `check_new_tokens`."""
    embedding: Any = model.get_input_embeddings()
    head = getattr(model, HEAD, None)
    tied = head is not None and head.weight is embedding.weight
    name = next(name for name, part in model.named_modules() if part is embedding)
    _add_rows(embedding, EmbeddingWithNewTokens, ids)
    rows = torch.full((len(embedding.weight),), -1, dtype=torch.int32, device=embedding.weight.device)
    rows[embedding.token_ids] = torch.arange(len(ids), dtype=torch.int32, device=rows.device)
    embedding.register_buffer("row_of_id", rows, persistent=False)
    if head is None or not (tied or with_head):
        return [name]
    _add_rows(head, HeadWithNewTokens, ids, own=not tied)
    head.tied_to = (embedding,) if tied else ()
    return [name] if tied else [name, HEAD]


def check_new_tokens(model: Any, ids: tuple[int, ...], whole: list[str]) -> None:
    """Raise ConfigError for ids that cannot be trained, TypeError for what is no id."""
    if not ids:
        return
    embedding: nn.Embedding = model.get_input_embeddings()
    faults = []
    if words := [id_ for id_ in ids if type(id_) is not int]:
        raise TypeError(
            f"new_tokens are ids here, found {words[0]!r}; turn spellings into ids with token_ids()"
        )
    if outside := [id_ for id_ in ids if not 0 <= id_ < embedding.num_embeddings]:
        faults.append(
            f"adapter.new_tokens: {outside[0]} is not an id of this model, which has {embedding.num_embeddings} rows;"
            " resize its embeddings first"
        )
    if embedding.padding_idx in ids:
        faults.append(
            f"adapter.new_tokens: {embedding.padding_idx} is the padding token, which is never trained"
        )
    if len(set(ids)) < len(ids):
        faults.append("adapter.new_tokens: an id comes twice")
    if both := [name for name in whole if name.rpartition(".")[2] in (EMBEDDING, HEAD)]:
        faults.append(f"adapter.new_tokens: {both[0]} is trained whole already; leave one of the two out")
    if faults:
        raise ConfigError("\n".join(faults))


def _add_rows(part: Any, kind: type, ids: tuple[int, ...], *, own: bool = True) -> None:
    base = part.weight
    part.register_buffer("token_ids", torch.tensor(ids, device=base.device), persistent=False)
    if own:
        delta = base.detach()[part.token_ids].float().clone()
        part.register_parameter(DELTA, nn.Parameter(delta))
    part.__class__ = kind
    if kind is HeadWithNewTokens:
        del part._parameters["weight"]
        part.register_parameter("frozen_weight", base)


@torch.no_grad()
def make_plain(part: Any, dtype: torch.dtype) -> None:
    """Undo the above for one module, its trained values kept, in `dtype`."""
    if type(part) in (EmbeddingWithNewTokens, HeadWithNewTokens):
        frozen = "frozen_weight" if type(part) is HeadWithNewTokens else "weight"
        base = part._parameters.pop(frozen)
        if DELTA in part._parameters:
            base[part.token_ids] = part.trainable_tokens_delta.to(base.dtype)
            del part.trainable_tokens_delta
        for name in ("token_ids", "row_of_id"):
            part._buffers.pop(name, None)
            part._non_persistent_buffers_set.discard(name)
        part.__dict__.pop("tied_to", None)
        part.__class__ = nn.Embedding if isinstance(part, nn.Embedding) else nn.Linear
        part.register_parameter("weight", base)
    elif type(part) in _PLAIN:
        part.__class__ = _PLAIN[type(part)]
        part.__dict__.pop("narrow", None)
    if isinstance(part, nn.Linear | nn.Embedding | GlmRMSNorm):
        for parameter in part.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
