"""Arguments that do not fit are refused by name, by a ValueError or TypeError of ours and not by torch inside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glm_train.errors import ConfigError
from glm_train.model.cache import KeyValueCache
from glm_train.model.classification import GlmForSequenceClassification, GlmForTokenClassification
from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE

HEADS: dict[str, Any] = {
    "model": GlmModel,
    "causal": GlmForCausalLM,
    "sequence": GlmForSequenceClassification,
    "token": GlmForTokenClassification,
}
IDS = torch.arange(33).reshape(3, 11)
EMBEDS = torch.randn(3, 11, 48, generator=torch.Generator().manual_seed(0))
MASK = torch.ones(3, 11, dtype=torch.long)
ROW = {"input_ids": IDS[:1]}


def past(rows: int = 3, kv_heads: int = 2, tokens: int = 4, width: int = 16, **kind: Any) -> tuple[Any, ...]:
    return ((torch.zeros(rows, kv_heads, tokens, width, **kind),) * 2,) * 3


def filled(layers: int = 3, **shape: Any) -> KeyValueCache:
    """A cache object with these keys and values."""
    return KeyValueCache.from_legacy(past(**shape)[:layers])


def edges(*places: int) -> Tensor:
    return torch.tensor(places, dtype=torch.int32)


#: What is wrong, the arguments, and the argument that the message must name.
ANY_HEAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither ids nor embeddings": ({}, "input_ids"),
    "ids and embeddings": ({"input_ids": IDS, "inputs_embeds": EMBEDS}, "input_ids"),
    "ids as a list": ({"input_ids": IDS.tolist()}, "input_ids"),
    "float ids": ({"input_ids": IDS.float()}, "input_ids"),
    "bool ids": ({"input_ids": IDS.bool()}, "input_ids"),
    "ids of one row without its batch": ({"input_ids": IDS[0]}, "input_ids"),
    "ids with a dimension too many": ({"input_ids": IDS[None]}, "input_ids"),
    "an id as large as the vocabulary": ({"input_ids": IDS + 65}, "vocab_size 97"),
    "a negative id": ({"input_ids": IDS - 1}, "input_ids"),
    "embeddings of another width": ({"inputs_embeds": EMBEDS[..., 1:]}, "inputs_embeds"),
    "embeddings of one row": ({"inputs_embeds": EMBEDS[0]}, "inputs_embeds"),
    "embeddings that are ids": ({"inputs_embeds": IDS}, "inputs_embeds"),
    "a mask too long": ({"input_ids": IDS, "attention_mask": torch.ones(3, 12)}, "attention_mask"),
    "a mask too short": ({"input_ids": IDS, "attention_mask": MASK[:, 1:]}, "attention_mask"),
    "a mask of other rows": ({"input_ids": IDS, "attention_mask": MASK[:2]}, "attention_mask"),
    "a mask of one row": ({"input_ids": IDS, "attention_mask": MASK[0]}, "attention_mask"),
    "a mask as a list": ({"input_ids": IDS, "attention_mask": MASK.tolist()}, "attention_mask"),
    "a mask to be added": ({"input_ids": IDS, "attention_mask": MASK * -1e9}, "attention_mask"),
    "a ready mask to be added": (
        {"input_ids": IDS, "attention_mask": torch.zeros(3, 1, 11, 11)},
        "attention_mask",
    ),
    "a ready mask of other keys": (
        {"input_ids": IDS, "attention_mask": torch.ones(3, 1, 11, 12, dtype=torch.bool)},
        "attention_mask",
    ),
    "a mask without the cached tokens": (
        {"input_ids": IDS, "attention_mask": MASK, "past_key_values": past()},
        "4 cached and 11 new",
    ),
    "positions of other tokens": ({"input_ids": IDS, "position_ids": torch.arange(12)[None]}, "position_ids"),
    "positions of other rows": ({"input_ids": IDS, "position_ids": IDS[:2]}, "position_ids"),
    "positions with a dimension too many": ({"input_ids": IDS, "position_ids": IDS[None]}, "position_ids"),
    "a cache of fewer layers": ({"input_ids": IDS[:, :1], "past_key_values": past()[:2]}, "3 layers"),
    "a cache of more layers": ({"input_ids": IDS, "past_key_values": past() + past()}, "3 layers"),
    "a cache object of fewer layers": (
        {"input_ids": IDS[:, :1], "past_key_values": filled(2)},
        "past_key_values",
    ),
    "a cache of other rows": ({"input_ids": IDS, "past_key_values": past(rows=2)}, "past_key_values"),
    "a cache object of other rows": ({"input_ids": IDS, "past_key_values": filled(rows=2)}, "3"),
    "a cache of other heads": ({"input_ids": IDS, "past_key_values": past(kv_heads=4)}, "past_key_values"),
    "a cache object of other heads": (
        {"input_ids": IDS, "past_key_values": filled(kv_heads=4)},
        "past_key_values",
    ),
    "a cache of other widths": ({"input_ids": IDS, "past_key_values": past(width=8)}, "past_key_values"),
    "a cache of another dtype": (
        {"input_ids": IDS, "past_key_values": past(dtype=torch.float64)},
        "past_key_values",
    ),
    "a cache of unequal lengths": (
        {"input_ids": IDS, "past_key_values": (*past()[:2], past(tokens=3)[0])},
        "past_key_values",
    ),
    "a cache as one tensor": (
        {"input_ids": IDS, "past_key_values": torch.zeros(3, 2, 3, 2, 4, 16)},
        "past_key_values",
    ),
    "a cache as a dict": ({"input_ids": IDS, "past_key_values": {}}, "past_key_values"),
    "a cache as a name": ({"input_ids": IDS, "past_key_values": "static"}, "past_key_values"),
    "documents and a mask": (
        {**ROW, "cu_seqlens": edges(0, 5, 11), "attention_mask": MASK[:1]},
        "attention_mask",
    ),
    "documents and a cache": (
        {**ROW, "cu_seqlens": edges(0, 11), "past_key_values": past(rows=1)},
        "past_key_values",
    ),
    "documents and use_cache": ({**ROW, "cu_seqlens": edges(0, 11), "use_cache": True}, "use_cache"),
    "documents in several rows": ({"input_ids": IDS, "cu_seqlens": edges(0, 5, 11)}, "one row"),
    "documents that end too early": ({**ROW, "cu_seqlens": edges(0, 5, 10)}, "cu_seqlens"),
    "documents that end too late": ({**ROW, "cu_seqlens": edges(0, 5, 12)}, "cu_seqlens"),
    "documents that start too late": ({**ROW, "cu_seqlens": edges(1, 5, 11)}, "cu_seqlens"),
    "documents that overlap": ({**ROW, "cu_seqlens": edges(0, 7, 5, 11)}, "cu_seqlens"),
    "an empty document": ({**ROW, "cu_seqlens": edges(0, 5, 5, 11)}, "cu_seqlens"),
    "float edges": ({**ROW, "cu_seqlens": edges(0, 11).float()}, "cu_seqlens"),
    "edges as a list": ({**ROW, "cu_seqlens": [0, 11]}, "cu_seqlens"),
    "edges in rows": ({**ROW, "cu_seqlens": edges(0, 11)[None]}, "cu_seqlens"),
    "one edge": ({**ROW, "cu_seqlens": edges(0)}, "cu_seqlens"),
    "a longest document that is not": ({**ROW, "cu_seqlens": edges(0, 11), "max_seqlen": 5}, "max_seqlen"),
    "a longest document of none": ({"input_ids": IDS, "max_seqlen": 11}, "max_seqlen"),
}

NO_CLASSES = {
    "labels as a list": IDS.tolist(),
    "labels that are too large": IDS + 97,
    "negative labels": IDS - 200,
    "labels of other rows": IDS[:2],
    "labels of one dimension": IDS[0],
}
OF_HEAD: dict[str, dict[str, tuple[dict[str, Any], str]]] = {
    "model": {
        "cache_position of other tokens": ({"cache_position": torch.arange(10)}, "cache_position"),
        "cache_position elsewhere": ({"cache_position": torch.arange(11) + 7}, "cache_position"),
        "cache_position in rows": ({"cache_position": torch.arange(11)[None]}, "cache_position"),
        "cache_position before the cache's end": (
            {"cache_position": torch.arange(11), "past_key_values": past()},
            "cache_position",
        ),
    },
    "causal": {
        **{name: ({"labels": labels}, "labels") for name, labels in NO_CLASSES.items()},
        "float labels": ({"labels": IDS.float()}, "labels"),
        "labels and fewer logits": ({"labels": IDS, "num_logits_to_keep": 3}, "labels"),
        "logits to keep, below none": ({"num_logits_to_keep": -1}, "logits_to_keep"),
        "logits to keep, a fraction": ({"num_logits_to_keep": 1.5}, "logits_to_keep"),
        "logits to keep, by both names": ({"num_logits_to_keep": 2, "logits_to_keep": 3}, "logits_to_keep"),
        "logits to keep in rows": ({"logits_to_keep": torch.tensor([[1], [2], [3]])}, "logits_to_keep"),
        "logits to keep, out of reach": ({"logits_to_keep": torch.tensor([11])}, "logits_to_keep"),
        "logits to keep, floats": ({"logits_to_keep": torch.tensor([1.0])}, "logits_to_keep"),
        "no items": ({"labels": IDS, "num_items_in_batch": 0}, "num_items_in_batch"),
    },
    "sequence": {
        "labels as a list": ({"labels": [0, 1, 1]}, "labels"),
        "labels that are too large": ({"labels": torch.tensor([0, 1, 2])}, "labels"),
        "negative labels": ({"labels": torch.tensor([0, 1, -1])}, "labels"),
        "labels of other rows": ({"labels": torch.tensor([0, 1])}, "labels"),
        "labels of tokens": ({"labels": IDS % 2}, "labels"),
        "values where classes are meant": ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "labels"),
    },
    "token": {
        **{name: ({"labels": labels}, "labels") for name, labels in NO_CLASSES.items()},
        "labels of documents": ({"labels": torch.tensor([0, 1, 1])}, "labels"),
        "float labels": ({"labels": (IDS % 2).float()}, "labels"),
    },
}


@pytest.fixture(scope="module", params=HEADS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return HEADS[request.param](GlmConfig(**SHAPE)).eval()


@pytest.mark.parametrize("wrong", ANY_HEAD)
def test_what_no_forward_takes_is_refused_by_name(model: Any, wrong: str) -> None:
    given, name = ANY_HEAD[wrong]
    refused(model, given, name)


@pytest.mark.parametrize(
    ("head", "wrong"), [(head, wrong) for head, table in OF_HEAD.items() for wrong in table]
)
def test_what_a_head_does_not_take_is_refused_by_name(head: str, wrong: str) -> None:
    given, name = OF_HEAD[head][wrong]
    refused(HEADS[head](GlmConfig(**SHAPE)).eval(), {"input_ids": IDS, **given}, name)


@pytest.mark.parametrize(
    "given", [{"past_key_values": past()}, {"past_key_values": KeyValueCache()}, {"use_cache": True}]
)
@pytest.mark.parametrize("head", ["model", "sequence", "token"])
def test_a_bidirectional_model_refuses_a_cache(head: str, given: dict[str, Any]) -> None:
    refused(HEADS[head](GlmConfig(**SHAPE, bidirectional=True)), {"input_ids": IDS, **given}, "bidirectional")


def test_a_language_model_refuses_to_see_what_it_predicts() -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        GlmForCausalLM(GlmConfig(**SHAPE, bidirectional=True))


def refused(model: Any, given: dict[str, Any], name: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        model(**given)
    message = str(caught.value)
    assert name in message
    assert "argument '" not in message, "that is torch's message"
    assert len(message) < 300
