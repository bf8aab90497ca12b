"""Generation and its cache."""

from __future__ import annotations

import pytest
import torch

from glm_train.model.cache import KeyValueCache
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE


@pytest.fixture
def model() -> GlmForCausalLM:
    torch.manual_seed(1)
    return GlmForCausalLM(GlmConfig(**SHAPE)).eval()


def test_the_cache_gives_the_logits_of_the_whole_sequence(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (2, 10))
    whole = model(ids).logits
    cache = KeyValueCache()
    parts = [
        model(part, past_key_values=cache, use_cache=True).logits for part in ids.split([4, 1, 3, 2], dim=1)
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 10


def test_legacy_caches_come_back_as_they_came_in(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (1, 6))
    first = model(ids[:, :4], use_cache=True).past_key_values
    legacy = first
    out = model(ids[:, 4:], past_key_values=legacy, use_cache=True)
    assert isinstance(out.past_key_values, tuple)
    assert out.past_key_values[2][0].shape == (1, 2, 6, 16)
    torch.testing.assert_close(out.logits, model(ids).logits[:, 4:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stop", [7, [5, 7, 9]])
def test_it_stops_on_every_stop_id_and_pads_what_follows(
    model: GlmForCausalLM, stop: int | list[int]
) -> None:
    """Row 0 meets a stop id at its first step, row 1 never does."""
    favourite = 7 if stop == 7 else 9

    def scores(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(hidden.shape[0], hidden.shape[1], 97)
        logits[0, :, favourite] = 1.0
        logits[1, :, 20] = 1.0
        return logits

    model.lm_head.forward = scores  # type: ignore[method-assign]
    out = model.generate(torch.randint(10, 90, (2, 3)), max_new_tokens=4, eos_token_id=stop)
    assert out[:, 3:].tolist() == [[favourite, 5, 5, 5], [20, 20, 20, 20]]


def test_sampling_is_reproducible_and_stays_in_the_nucleus(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (1, 5))
    probabilities = model(ids).logits[0, -1].softmax(-1)
    drawn = model.generate(
        ids.repeat(400, 1), max_new_tokens=1, do_sample=True, top_p=0.5, seed=4, eos_token_id=0
    )[:, -1]
    again = model.generate(
        ids.repeat(400, 1), max_new_tokens=1, do_sample=True, top_p=0.5, seed=4, eos_token_id=0
    )[:, -1]
    assert drawn.tolist() == again.tolist()
    ordered = probabilities.sort(descending=True)
    nucleus = ordered.indices[: int((ordered.values.cumsum(-1) < 0.5).sum()) + 1]
    assert set(drawn.tolist()) <= set(nucleus.tolist())
    counts = torch.bincount(drawn, minlength=97)[nucleus] / 400
    expected = probabilities[nucleus] / probabilities[nucleus].sum()
    assert (counts - expected).abs().max() < 0.1


def test_top_k_one_is_greedy(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (2, 5))
    greedy = model.generate(ids, max_new_tokens=6)
    assert model.generate(ids, max_new_tokens=6, do_sample=True, top_k=1, seed=0).tolist() == greedy.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_arguments_without_meaning_are_refused(model: GlmForCausalLM, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(torch.ones(1, 2, dtype=torch.long), do_sample=True, **arguments)


def test_outputs_read_as_objects_dicts_and_tuples(model: GlmForCausalLM) -> None:
    ids = torch.randint(0, 97, (1, 4))
    out = model(ids, labels=ids, use_cache=False)
    loss, logits = out
    assert out.loss is loss is out["loss"] is out[0]
    assert out[1] is logits
    assert isinstance(model(ids, return_dict=False, use_cache=False), tuple)
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == SHAPE["num_hidden_layers"] + 1
    torch.testing.assert_close(model.lm_head(states[-1]), model(ids).logits)
    assert (
        model(ids, logits_to_keep=1).logits.shape
        == model(ids, num_logits_to_keep=1).logits.shape
        == (1, 1, 97)
    )
