"""Decoding in pieces against transformers: whatever holds the keys and values, the numbers are those of one forward.

A cache is ours, transformers' own (dynamic, or static with room to spare) or the legacy tuple. It comes back in the
form it came in; where none was given, as the legacy tuple. Shapes: B batch, K kv heads, S tokens so far, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

from glm_train.model.cache import KeyValueCache
from support.reference import (
    assert_close,
    assert_same_cache,
    assert_same_gradients,
    pair,
    ragged_batch,
    relative,
)
from support.tolerances import ATTENTION, GRADIENT, LOGITS

CUTS = ((11,), (4, 7), (5, 3, 2, 1), (8, 1, 1, 1), (1,) * 11)
CACHES: dict[str, Callable[[Any], Any]] = {
    "none": lambda config: None,
    "ours": lambda config: KeyValueCache(),
    "ours with room": lambda config: KeyValueCache(capacity=30),
    "legacy, empty": lambda config: (),
    "transformers' dynamic": lambda config: DynamicCache(config=config),
    "transformers' dynamic, made of nothing": lambda config: DynamicCache(),
    "transformers' static": lambda config: StaticCache(config=config, max_cache_len=30),
}
IDS, MASK = ragged_batch("left")


def in_pieces(
    model: Any, cache: Any, cuts: tuple[int, ...], mask: Tensor | None, **given: Any
) -> tuple[Any, Any]:
    """Outputs of the pieces, and the cache after the last."""
    outputs, start = [], 0
    for tokens in cuts:
        end = start + tokens
        out = model(
            input_ids=IDS[:, start:end],
            attention_mask=None if mask is None else mask[:, :end],
            past_key_values=cache,
            use_cache=True,
            **{name: value(start, end) for name, value in given.items()},
        )
        outputs.append(out)
        cache, start = out.past_key_values, end
    return outputs, cache


def logits(outputs: list[Any]) -> Tensor:
    return torch.cat([out.logits for out in outputs], dim=1)


@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts)))
@pytest.mark.parametrize("masked", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("cache", CACHES)
def test_pieces_give_the_logits_of_the_whole_and_the_cache_comes_back(
    cache: str, masked: bool, cuts: tuple[int, ...]
) -> None:
    ours, reference = pair("glm4")
    mask = MASK if masked else None
    with torch.no_grad():
        expected = reference(input_ids=IDS, attention_mask=mask)
        given = CACHES[cache](reference.config)
        outputs, after = in_pieces(ours, given, cuts, mask)
    assert_close(logits(outputs), expected.logits)
    if given is None or given == ():
        assert isinstance(after, tuple)
        assert after[0][0].shape == (3, 2, 11, 16)
    else:
        assert after is given
    if "static" not in cache:  # which holds its spare room too
        assert_same_cache(after, expected.past_key_values)


@pytest.mark.parametrize("variant", ["glm", "glm4-gqa4-nobias", "glm-edge"])
def test_pieces_equal_transformers_pieces_with_every_output(variant: str) -> None:
    ours, reference = pair(variant, attention="eager")
    wanted = {name: (lambda start, end: True) for name in ("output_attentions", "output_hidden_states")}
    with torch.no_grad():
        outputs, _ = in_pieces(ours, None, (5, 3, 2, 1), MASK, **wanted)
        expected, _ = in_pieces(reference, DynamicCache(), (5, 3, 2, 1), MASK, **wanted)
    for mine, theirs in zip(outputs, expected, strict=True):
        assert_close(mine.logits, theirs.logits)
        for name, tolerance in (("hidden_states", LOGITS), ("attentions", ATTENTION)):
            for one, other in zip(getattr(mine, name), getattr(theirs, name), strict=True):
                assert_close(one, other, name, tolerance)


@pytest.mark.parametrize("form", [tuple, list])
def test_transformers_keys_and_values_as_legacy_pairs_are_continued(form: Any) -> None:
    ours, reference = pair("glm")
    with torch.no_grad():
        cache = DynamicCache()
        reference(input_ids=IDS[:, :5], past_key_values=cache)
        pairs = form(form((layer.keys, layer.values)) for layer in cache.layers)
        before = [(keys.clone(), values.clone()) for keys, values in pairs]
        out = ours(IDS[:, 5:], past_key_values=pairs)
        again = ours(IDS[:, 5:], past_key_values=pairs)
        assert_close(out.logits, reference(input_ids=IDS).logits[:, 5:])
    assert torch.equal(out.logits, again.logits)
    assert isinstance(out.past_key_values, tuple)
    for (keys, values), (old_keys, old_values) in zip(pairs, before, strict=True):
        assert torch.equal(keys, old_keys), "the caller's tensors are written to"
        assert torch.equal(values, old_values), "the caller's tensors are written to"


@pytest.mark.parametrize("cache", ["none", "ours", "transformers' dynamic"])
def test_our_cache_is_continued_by_transformers(cache: str) -> None:
    ours, reference = pair("glm4")
    with torch.no_grad():
        after = ours(IDS[:, :5], past_key_values=CACHES[cache](reference.config)).past_key_values
        theirs = after
        if not isinstance(after, DynamicCache):
            theirs = DynamicCache()
            for layer, (keys, values) in enumerate(after):
                theirs.update(keys, values, layer)
        out = reference(input_ids=IDS[:, 5:], past_key_values=theirs)
        assert_close(out.logits, ours(IDS).logits[:, 5:])


@pytest.mark.parametrize("masked", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("cache", ["none", "ours", "transformers' dynamic", "transformers' static"])
def test_cache_position_and_position_ids_say_what_is_counted_anyway(cache: str, masked: bool) -> None:
    ours, reference = pair("glm4")
    mask = MASK if masked else None
    counted = {"cache_position": lambda start, end: torch.arange(start, end)}
    placed = {"position_ids": lambda start, end: torch.arange(start, end)[None]}
    with torch.no_grad():
        expected = reference(input_ids=IDS, attention_mask=mask).logits
        for given in (counted, placed, {**counted, **placed}):
            outputs, _ = in_pieces(ours, CACHES[cache](reference.config), (5, 3, 2, 1), mask, **given)
            assert_close(logits(outputs), expected)


def test_positions_of_left_padded_prompts_in_pieces_equal_transformers() -> None:
    """As generation gives them: counted over real tokens, so that padding takes no place."""
    ours, reference = pair("glm")
    places = (MASK.cumsum(1) - 1).clamp(min=0)
    given = {"position_ids": lambda start, end: places[:, start:end]}
    with torch.no_grad():
        outputs, _ = in_pieces(ours, None, (5, 3, 2, 1), MASK, **given)
        expected, _ = in_pieces(reference, DynamicCache(), (5, 3, 2, 1), MASK, **given)
    assert_close(logits(outputs), logits(expected))


@pytest.mark.parametrize("cuts", CUTS, ids=lambda cuts: "+".join(map(str, cuts)))
@pytest.mark.parametrize("cache", ["none", "ours", "ours with room", "transformers' dynamic"])
def test_gradients_flow_through_the_cache_as_in_transformers(cache: str, cuts: tuple[int, ...]) -> None:
    ours, reference = pair("glm4")
    for model, given in ((ours, CACHES[cache](reference.config)), (reference, DynamicCache())):
        outputs, _ = in_pieces(model, given, cuts, None)
        outputs[-1].logits[:, -1].square().mean().backward()
    assert_same_gradients(ours, reference)


@pytest.mark.parametrize("form", ["legacy", "transformers' dynamic"])
def test_given_keys_and_values_get_transformers_gradients(form: str) -> None:
    """As prefix tuning trains them."""
    ours, reference = pair("glm4")
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), MASK], dim=1)
    found = []
    for model in (ours, reference):
        draw = torch.Generator().manual_seed(0)
        tensors = [torch.randn(3, 2, 4, 16, generator=draw).requires_grad_() for _ in range(6)]
        cache: Any = tuple(zip(tensors[::2], tensors[1::2], strict=True))
        if model is reference or form != "legacy":
            dynamic = DynamicCache()
            for layer, (keys, values) in enumerate(cache):
                dynamic.update(keys, values, layer)
            cache = dynamic
        model(input_ids=IDS, attention_mask=mask, past_key_values=cache, labels=IDS).loss.backward()
        found.append([tensor.grad for tensor in tensors])
    assert_same_gradients(ours, reference)
    for mine, theirs in zip(*found, strict=True):
        assert relative(mine, theirs) <= GRADIENT


@pytest.mark.parametrize("cache", ["legacy, empty", "ours", "transformers' dynamic"])
def test_the_bare_model_and_the_classifiers_take_and_return_caches_too(cache: str) -> None:
    for head, field in (("model", "last_hidden_state"), ("sequence", "logits"), ("token", "logits")):
        ours, _ = pair("glm4", head=head)
        with torch.no_grad():
            expected = getattr(ours(IDS), field)
            given = CACHES[cache](None) if "dynamic" not in cache else DynamicCache()
            first = ours(IDS[:, :7], past_key_values=given)
            handed = given if head == "token" else first.past_key_values
            if head == "token" and given == ():
                continue  # a token classifier's output has no field for the cache, in transformers neither
            assert (handed is given) or given == ()
            out = getattr(ours(IDS[:, 7:], past_key_values=handed), field)
        assert_close(out, expected if head == "sequence" else expected[:, 7:])
