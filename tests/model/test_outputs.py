"""What the forwards take and return: documented arguments, outputs as objects and as tuples, and refusals by name."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

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
BODY = ["input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds"]
SWITCHES = ["use_cache", "output_attentions", "output_hidden_states", "return_dict"]
DOCUMENTED = {
    "model": [*BODY, *SWITCHES, "cache_position"],
    "causal": [*BODY, "labels", *SWITCHES, "cache_position", "num_logits_to_keep"],
    "sequence": [*BODY, "labels", *SWITCHES],
    "token": [*BODY, "labels", *SWITCHES],
}
FIRST = {"model": "last_hidden_state", "causal": "logits", "sequence": "logits", "token": "logits"}
IDS = torch.arange(33).reshape(3, 11)
LABELS = {"causal": IDS, "sequence": torch.tensor([0, 1, 1]), "token": IDS % 2}
OF = pytest.mark.parametrize("head", HEADS)


def build(head: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return HEADS[head](GlmConfig(**{**SHAPE, **changes})).eval()


@OF
def test_the_forward_has_the_documented_arguments_in_the_documented_order(head: str) -> None:
    arguments = list(inspect.signature(HEADS[head].forward).parameters.values())[1:]
    positional = [a for a in arguments if a.kind is a.POSITIONAL_OR_KEYWORD]
    assert [a.name for a in positional] == DOCUMENTED[head]
    for argument in positional:
        assert argument.default == (0 if argument.name == "num_logits_to_keep" else None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("use_cache", [None, True, False])
@OF
def test_the_tuple_has_the_documented_fields_in_order(
    head: str, use_cache: bool | None, labelled: bool, training: bool
) -> None:
    """The cache is in it wherever `use_cache` is True, in training too, and True is what the configuration says."""
    model = build(head, classifier_dropout=0.0).train(training)
    labels = {"labels": LABELS[head]} if labelled and head in LABELS else {}
    for asked in (
        set(),
        {"output_hidden_states"},
        {"output_attentions"},
        {"output_hidden_states", "output_attentions"},
    ):
        given = {**labels, "use_cache": use_cache, **dict.fromkeys(asked, True)}
        expected = ["loss"] if labels else []
        expected += [FIRST[head]]
        expected += ["past_key_values"] if use_cache is not False and head != "token" else []
        expected += [name for name in ("output_hidden_states", "output_attentions") if name in asked]
        out, plain = model(IDS, **given), model(IDS, **given, return_dict=False)
        names = [name.removeprefix("output_") for name in expected]
        assert list(out.keys()) == names
        assert type(plain) is tuple
        assert len(plain) == len(out) == len(names)
        assert torch.equal(plain[0], out[0])


@OF
def test_the_configuration_sets_the_switches_and_the_call_overrides_them(head: str) -> None:
    model = build(head, output_hidden_states=True, output_attentions=True, return_dict=False, use_cache=False)
    assert [type(part) for part in model(IDS)] == [Tensor, tuple, tuple]
    asked = {
        "output_hidden_states": False,
        "output_attentions": False,
        "return_dict": True,
        "use_cache": True,
    }
    out = model(IDS, **asked)
    assert list(out.keys()) == [FIRST[head], *(["past_key_values"] if head != "token" else [])]


@pytest.mark.parametrize("past", [0, 4])
@OF
def test_hidden_states_and_attentions_have_the_documented_shapes(head: str, past: int) -> None:
    model = build(head)
    body = model if head == "model" else model.model
    cache = KeyValueCache() if past else None
    if cache is not None:
        model(IDS[:, :past], past_key_values=cache)
    out = model(IDS[:, past:], past_key_values=cache, output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in out.hidden_states] == [(3, 11 - past, 48)] * 4
    assert [tuple(a.shape) for a in out.attentions] == [(3, 4, 11 - past, 11)] * 3
    assert torch.equal(out.hidden_states[0], body.embed_tokens(IDS[:, past:]))
    last = out.last_hidden_state if head == "model" else out.hidden_states[-1]
    assert torch.equal(last, out.hidden_states[-1])
    for weights in out.attentions:
        assert torch.allclose(weights.sum(-1), torch.ones(3, 4, 11 - past), atol=1e-6)
        assert (weights.triu(past + 1) == 0).all()


@OF
def test_asking_to_look_changes_no_number(head: str) -> None:
    model = build(head)
    mask = torch.ones_like(IDS)
    mask[0, 7:] = (
        0  # on the right: left padding itself is seen differently by the path that shows its weights
    )
    for given in ({"attention_mask": mask}, {"cu_seqlens": torch.tensor([0, 4, 11], dtype=torch.int32)}):
        ids = IDS[:1] if "cu_seqlens" in given else IDS
        plain = model(ids, **given)[0]
        looked = model(ids, **given, output_attentions=True, output_hidden_states=True)[0]
        assert torch.allclose(plain, looked, atol=2e-5)


@pytest.mark.parametrize("head", ["model", "causal", "sequence"])
def test_the_cache_comes_back_in_the_form_that_it_came_in(head: str) -> None:
    model = build(head)
    first = model(IDS[:, :6]).past_key_values
    assert type(first) is tuple
    assert [(type(pair), len(pair)) for pair in first] == [(tuple, 2)] * 3
    assert {tuple(tensor.shape) for pair in first for tensor in pair} == {(3, 2, 6, 16)}
    second = model(IDS[:, 6:], past_key_values=first).past_key_values
    assert type(second) is tuple
    assert second[0][0].shape == (3, 2, 11, 16)
    cache = KeyValueCache()
    assert model(IDS, past_key_values=cache).past_key_values is cache
    assert model(IDS[:, :1], past_key_values=cache, use_cache=False).past_key_values is None


def test_an_output_is_an_object_a_tuple_and_a_mapping() -> None:
    out = build("causal")(IDS, labels=IDS, output_hidden_states=True)
    names = ["loss", "logits", "past_key_values", "hidden_states"]
    assert list(out.keys()) == names
    assert "logits" in out
    assert "attentions" not in out
    assert out[1] is out.logits is out["logits"] is out[-3]
    assert out[:2] == (out.loss, out.logits)
    loss, logits, *rest = out
    assert (loss is out.loss, logits is out.logits, len(rest)) == (True, True, 2)
    assert list(dict(out)) == list(dict(**out)) == names
    assert out.to_tuple() == tuple(out)
    assert out.attentions is None
    with pytest.raises(IndexError):
        out[4]
    for absent in ("nonsense", "to_tuple"):
        with pytest.raises(KeyError):
            out[absent]
    assert torch.equal(copy.copy(out).logits, out.logits)
    plain = build("causal")(IDS)
    with torch.no_grad():
        again = pickle.loads(pickle.dumps(plain))
    assert torch.equal(again.logits, plain.logits)
