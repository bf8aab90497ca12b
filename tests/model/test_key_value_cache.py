"""The key-value cache: what it gives out, what it copies, how much it holds, and that gradients pass it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from glm_train.model.cache import KeyValueCache
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE


@pytest.fixture
def model() -> GlmForCausalLM:
    torch.manual_seed(1)
    return GlmForCausalLM(GlmConfig(**SHAPE)).eval()


def tokens(count: int, rows: int = 1) -> Tensor:
    return torch.randn(rows, 2, count, 4)


def held(tensor: Tensor) -> int:
    """Tokens of (1, 2, ., 4) floats that the tensor's memory has room for."""
    return tensor.untyped_storage().nbytes() // (2 * 4 * 4)


@torch.no_grad()
@pytest.mark.parametrize("capacity", [0, 3, 9, 20])
def test_it_gives_out_all_that_was_put_in(capacity: int) -> None:
    cache = KeyValueCache(capacity)
    keys, values = [tokens(n) for n in (3, 1, 4, 1)], [tokens(n) for n in (3, 1, 4, 1)]
    for step, (key, value) in enumerate(zip(keys, values, strict=True), start=1):
        for layer in range(2):
            out = cache.update(key + layer, value + layer, layer)
            assert torch.equal(out[0], torch.cat(keys[:step], 2) + layer)
            assert torch.equal(out[1], torch.cat(values[:step], 2) + layer)
    assert cache.get_seq_length() == cache.get_seq_length(1) == 9
    assert len(cache) == 2
    assert [tuple(key.shape) for key, _ in cache] == [(1, 2, 9, 4)] * 2
    assert torch.equal(cache.to_legacy()[1][0], cache[1][0])


def test_an_empty_cache_has_no_tokens_and_layers_fill_in_order() -> None:
    cache = KeyValueCache()
    assert (cache.get_seq_length(), len(cache), cache.to_legacy()) == (0, 0, ())
    with pytest.raises(IndexError, match="layer 1 before layer 0"):
        cache.update(tokens(1), tokens(1), 1)


@torch.no_grad()
def test_the_first_tensors_are_kept_and_not_copied() -> None:
    cache, key, value = KeyValueCache(), tokens(5), tokens(5)
    out = cache.update(key, value, 0)
    assert out[0].data_ptr() == key.data_ptr()
    assert out[1].data_ptr() == value.data_ptr()


@torch.no_grad()
def test_a_known_capacity_is_made_once() -> None:
    cache = KeyValueCache(capacity=300)
    places = {cache.update(tokens(n), tokens(n), 0)[0].data_ptr() for n in (44, *[1] * 256)}
    assert len(places) == 1
    assert held(cache[0][0]) == 300


@torch.no_grad()
@pytest.mark.parametrize(("capacity", "most_copies"), [(0, 20), (6000, 7), (10**9, 7)])
def test_growth_copies_seldom_and_holds_little_more_than_needed(capacity: int, most_copies: int) -> None:
    cache, one = KeyValueCache(capacity), tokens(1)
    places = []
    for step in range(1, 6001):
        place = cache.update(one, one, 0)[0].data_ptr()
        places += [] if places[-1:] == [place] else [place]
        if step % 100 == 0:
            assert held(cache[0][0]) <= step + max(1024, step // 4)
    assert len(places) <= most_copies


@torch.no_grad()
def test_legacy_tensors_are_never_written_and_grow_by_what_is_added() -> None:
    given = tokens(4)
    room = torch.zeros(1, 2, 8, 4)  # a view with room after it, which is someone else's
    view = room[:, :, :4]
    before = given.clone()
    legacy: tuple[tuple[Tensor, Tensor], ...] = ((given, view),)
    for length in range(5, 9):
        cache = KeyValueCache.from_legacy(legacy)
        cache.update(tokens(1), tokens(1), 0)
        legacy = cache.to_legacy()
        assert held(legacy[0][0]) == held(legacy[0][1]) == length
    assert torch.equal(given, before)
    assert not room.any()


def test_legacy_pairs_of_other_shapes_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"layer 1: keys and values must be .*\(1, 2, 3, 4\) and \(1, 2, 2, 4\)"
    ):
        KeyValueCache.from_legacy([(tokens(3), tokens(3)), (tokens(3), tokens(2))])
    with pytest.raises(ValueError, match="layer 0"):
        KeyValueCache.from_legacy([(tokens(3)[0], tokens(3)[0])])


@torch.no_grad()
def test_rows_repeat_and_reorder() -> None:
    cache = KeyValueCache()
    key, value = tokens(3, rows=2), tokens(3, rows=2)
    cache.update(key, value, 0)
    cache.batch_repeat_interleave(2)
    assert torch.equal(cache[0][0], key[[0, 0, 1, 1]])
    cache.reorder_cache(torch.tensor([3, 0, 0]))
    assert torch.equal(cache[0][1], value[[1, 0, 0]])
    cache.update(tokens(1, rows=3), tokens(1, rows=3), 0)
    assert cache[0][0].shape == (3, 2, 4, 4)
    with pytest.raises(ValueError, match="holds 3 rows of float32, this forward has 1 rows of float32"):
        cache.update(tokens(1), tokens(1), 0)
    with pytest.raises(ValueError, match="holds 3 rows of float32, this forward has 3 rows of float64"):
        cache.update(tokens(1, rows=3).double(), tokens(1, rows=3).double(), 0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    cache = KeyValueCache(capacity=8)
    for n in (3, 1, 9):
        out = cache.update(tokens(n).to(dtype), tokens(n).to(dtype), 0)
    assert out[0].dtype == out[1].dtype == dtype
    assert out[0].shape[2] == 13


def test_an_inference_mode_cache_goes_on_outside_of_it() -> None:
    cache = KeyValueCache(capacity=8)
    with torch.inference_mode():
        cache.update(tokens(3), tokens(3), 0)
    with torch.no_grad():
        assert cache.update(tokens(1), tokens(1), 0)[0].shape[2] == 4


def test_gradients_through_a_cache_are_those_of_the_whole_sequence(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (2, 9))
    model(ids, use_cache=False).logits.square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    cache = KeyValueCache(capacity=9)
    parts = [
        model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([4, 1, 3, 1], dim=1)
    ]
    torch.cat(parts, dim=1).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, whole[name], rtol=1e-3, atol=1e-3 * whole[name].abs().max()
        )


def test_training_may_follow_a_prompt_without_gradients(model: GlmForCausalLM) -> None:
    """As with a frozen prefix: only queries learn, and attention keeps the cache's tensors for backward."""
    model.requires_grad_(False)
    model.model.layers[0].self_attn.q_proj.requires_grad_(True)
    ids, cache = torch.randint(0, 97, (1, 8)), KeyValueCache(capacity=16)
    with torch.no_grad():
        model(ids[:, :4], past_key_values=cache, use_cache=True)
        model(ids[:, 4:5], past_key_values=cache, use_cache=True)
    first = model(ids[:, 5:6], past_key_values=cache, use_cache=True).logits
    with torch.no_grad():
        model(ids[:, 6:7], past_key_values=cache, use_cache=True)
    second = model(ids[:, 7:], past_key_values=cache, use_cache=True).logits
    (first.sum() + second.sum()).backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().max() > 0


def test_a_training_forward_copies_no_keys(model: GlmForCausalLM) -> None:
    out = model.train()(torch.randint(0, 97, (2, 6)), use_cache=True)
    assert all(key.requires_grad and value.requires_grad for key, value in out.past_key_values)
    assert all(held(value) * 8 == value.numel() for _, value in out.past_key_values)


@torch.no_grad()
def test_the_cache_gives_the_logits_of_the_whole_sequence(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (2, 10))
    cache = KeyValueCache()
    parts = [
        model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([4, 1, 3, 2], dim=1)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids).logits, atol=3e-5, rtol=0)
    assert cache.get_seq_length() == 10


@torch.no_grad()
def test_a_copied_cache_goes_its_own_way(model: GlmForCausalLM) -> None:
    """One prompt, two continuations."""
    ids, prompt = torch.randint(0, 97, (1, 8)), KeyValueCache(capacity=8)
    model(ids[:, :6], past_key_values=prompt, use_cache=True)
    other = copy.deepcopy(prompt)
    model(torch.randint(0, 97, (1, 2)), past_key_values=prompt, use_cache=True)
    out = model(ids[:, 6:], past_key_values=other, use_cache=True).logits
    torch.testing.assert_close(out, model(ids).logits[:, 6:], atol=3e-5, rtol=0)


def test_legacy_caches_come_back_as_they_came_in(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (1, 6))
    first = KeyValueCache()
    model(ids[:, :4], past_key_values=first, use_cache=True)
    out = model(ids[:, 4:], past_key_values=first.to_legacy(), use_cache=True)
    assert isinstance(out.past_key_values, tuple)
    assert out.past_key_values[2][0].shape == (1, 2, 6, 16)
    torch.testing.assert_close(out.logits, model(ids).logits[:, 4:], atol=3e-5, rtol=0)
