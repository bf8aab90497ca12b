"""Room for more tokens in a model's embedding and head.

GLM's matrices have spare rows: 151552 of them for the 151343 tokens of GLM-4's tokenizer. The next tokens take ids
151343, 151344, ... whose rows are there already, so 209 tokens can be added without a resize.

Shapes: V rows before, W rows after, H hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glm_train.model.config import GlmConfig


def resize_token_embeddings(
    model: nn.Module, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None
) -> nn.Embedding:
    """Make room for `new_num_tokens` ids, rounded up to a multiple of `pad_to_multiple_of`. Returns the embedding.

    A number at or below the rows that are there changes nothing: rows are never dropped, spare ones are used first.
    With neither number nothing changes; with `pad_to_multiple_of` alone the present rows are rounded up.

    New rows of the embedding, and of a head that `get_output_embeddings` gives, are the mean of the old ones, so that
    no new token is more likely than the average one (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"). Modules, dtype, device, padding row and what is frozen stay; a tied head stays tied.
    `config.vocab_size` follows. The parameters are new ones: build the optimizer, and shard, afterwards.

    Raises `ValueError` for numbers that are no sizes, and for a model that is sharded already.
    """
    for name, value in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{name}: expected a positive whole number, found {value!r}")
    embedding: nn.Embedding = model.get_input_embeddings()  # type: ignore[operator]
    if new_num_tokens is None and pad_to_multiple_of is None:
        return embedding
    present, multiple = embedding.weight.shape[0], pad_to_multiple_of or 1
    wanted = -(-(present if new_num_tokens is None else new_num_tokens) // multiple) * multiple
    if wanted <= present:
        return embedding
    give_head = getattr(model, "get_output_embeddings", None)
    head: nn.Linear | None = give_head() if give_head is not None else None
    tied = head is not None and head.weight is embedding.weight
    embedding.weight = _grown(embedding.weight, wanted)
    embedding.num_embeddings = wanted
    if head is not None:
        head.weight = embedding.weight if tied else _grown(head.weight, wanted)
        head.out_features = wanted
    for part in model.modules():
        if isinstance(config := getattr(part, "config", None), GlmConfig):
            config.vocab_size = wanted
    return embedding


def _grown(weight_VH: Tensor, rows: int) -> nn.Parameter:
    """The matrix with `rows` rows, (W, H): the old ones, and their mean in each new one."""
    if hasattr(weight_VH, "placements"):
        raise ValueError("the model is sharded already; resize its embeddings before")
    with torch.no_grad():
        exact = torch.promote_types(weight_VH.dtype, torch.float32)
        mean_H = weight_VH.mean(dim=0, dtype=exact).to(weight_VH.dtype)
        grown_WH = torch.cat([weight_VH, mean_H.expand(rows - weight_VH.shape[0], -1)])
    return nn.Parameter(grown_WH, requires_grad=weight_VH.requires_grad)
