"""Generation: when it stops, what it returns, what it draws, what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glm_train.model import generation
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE

PAD = SHAPE["pad_token_id"]


@pytest.fixture
def model() -> GlmForCausalLM:
    torch.manual_seed(1)
    return GlmForCausalLM(GlmConfig(**SHAPE)).eval()


def prompts(rows: int = 2, tokens: int = 5) -> Tensor:
    return torch.randint(10, 90, (rows, tokens), generator=torch.Generator().manual_seed(2))


def script(model: GlmForCausalLM, rows: list[list[int]]) -> None:
    """Make the model's favourite tokens those of `rows`, a step at a time."""
    steps = iter(zip(*rows, strict=True))

    def scores(hidden: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(next(steps)), 97)[:, None].float()

    model.lm_head.forward = scores  # type: ignore[method-assign]


@pytest.mark.parametrize("stop", [None, 7, [7], [9, 7], torch.tensor([7, 9])])
def test_it_stops_when_every_row_has_a_stop_id_and_pads_what_follows(
    model: GlmForCausalLM, stop: Any
) -> None:
    script(model, [[20, 7, 21, 22], [20, 30, 7, 22]])
    out = model.generate(prompts(), max_new_tokens=4, eos_token_id=stop)
    assert out[:, 5:].tolist() == [[20, 7, PAD], [20, 30, 7]]
    assert torch.equal(out[:, :5], prompts())


def test_every_stop_id_of_the_config_stops(model: GlmForCausalLM) -> None:
    script(model, [[20, 7, 1, 1], [5, 1, 1, 1], [20, 20, 9, 1]])
    out = model.generate(prompts(3), max_new_tokens=4, pad_token_id=96)
    assert out[:, 5:].tolist() == [[20, 7, 96], [5, 96, 96], [20, 20, 9]]


def test_generation_config_goes_before_the_config(model: GlmForCausalLM) -> None:
    model.generation_config = {"eos_token_id": [33], "pad_token_id": 34}
    script(model, [[20, 7, 33, 1], [33, 1, 1, 1]])
    assert generation.stop_ids(model) == [33]
    assert model.generate(prompts(), max_new_tokens=4)[:, 5:].tolist() == [[20, 7, 33], [33, 34, 34]]


def test_no_stop_id_stops_nothing(model: GlmForCausalLM) -> None:
    script(model, [[5, 7, 9, 20]])
    assert model.generate(prompts(1), max_new_tokens=4, eos_token_id=[])[0, 5:].tolist() == [5, 7, 9, 20]


def test_padding_without_any_padding_id_is_the_first_stop_id() -> None:
    model = GlmForCausalLM(GlmConfig(**{**SHAPE, "pad_token_id": None, "eos_token_id": [7, 9]})).eval()
    script(model, [[9, 1], [20, 7]])
    assert model.generate(prompts(), max_new_tokens=2)[:, 5:].tolist() == [[9, 7], [20, 7]]


@pytest.mark.parametrize("new", [1, 2, 3, 4])
def test_a_deferred_check_returns_the_same(
    model: GlmForCausalLM, new: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the answer of the step before is read, and the step too many is dropped."""
    at_once = generation._StopCheck
    monkeypatch.setattr(generation, "_StopCheck", lambda deferred: at_once(deferred=True))
    script(model, [[20, 7, 21, 22], [7, 20, 21, 22]])
    out = model.generate(prompts(), max_new_tokens=new)[:, 5:]
    assert out.tolist() == [row[:new] for row in ([20, 7], [7, PAD])]


@pytest.mark.parametrize(
    ("arguments", "stated", "new"),
    [
        ({"max_new_tokens": 3}, {"max_length": 90}, 3),
        ({"max_length": 9}, {"max_new_tokens": 90}, 4),
        ({}, {"max_new_tokens": 6, "max_length": 90}, 6),
        ({}, {"max_length": 12}, 7),
        ({}, {}, 256),
    ],
)
def test_how_long_an_answer_may_be(model: GlmForCausalLM, arguments: dict, stated: dict, new: int) -> None:
    model.generation_config = stated
    assert model.generate(prompts(1), eos_token_id=[], **arguments).shape == (1, 5 + new)


def test_a_tokenizers_batch_goes_in_as_it_is(model: GlmForCausalLM) -> None:
    from glm_train.text.batch import as_tensors, pad_rows

    batch = as_tensors(pad_rows([[20, 30, 40], [50]], length=None, pad_id=PAD, side="left"), "pt")
    out = model.generate(**batch, max_new_tokens=6)
    assert out[:, :3].tolist() == [[20, 30, 40], [PAD, PAD, 50]]
    alone = model.generate(inputs=torch.tensor([[50]]), max_new_tokens=6)
    assert out[1, 3:].tolist()[: alone.shape[1] - 1] == alone[0, 1:].tolist()
    assert out.dtype == torch.long


def test_ids_of_another_width_stay_so(model: GlmForCausalLM) -> None:
    arguments = {"max_new_tokens": 6, "repetition_penalty": 1.2}
    out = model.generate(prompts().int(), **arguments)
    assert out.dtype == torch.int32
    assert out.tolist() == model.generate(prompts(), **arguments).tolist()


def test_the_mask_outgrows_what_was_made_ahead(
    model: GlmForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[0, :2] = False
    whole = model.generate(prompts(), attention_mask=mask, max_new_tokens=12, eos_token_id=[])
    monkeypatch.setattr(generation, "_MASK_STEP", 3)
    assert torch.equal(
        model.generate(prompts(), attention_mask=mask, max_new_tokens=12, eos_token_id=[]), whole
    )


# Sampling


def test_a_seed_and_a_generator_reproduce(model: GlmForCausalLM) -> None:
    def drawn(**source: Any) -> list:
        return model.generate(prompts(), max_new_tokens=8, do_sample=True, eos_token_id=[], **source).tolist()

    assert drawn(seed=4) == drawn(seed=4) == drawn(generator=torch.Generator().manual_seed(4))
    assert drawn(seed=4) != drawn(seed=5)
    torch.manual_seed(4)
    assert drawn() == drawn(seed=4)


def test_the_answers_to_one_prompt_share_its_forward_and_differ(model: GlmForCausalLM) -> None:
    """Tokens are those of the prompts given several times; the prompt itself runs once."""
    shapes: list[tuple[int, ...]] = []
    hook = model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: shapes.append(tuple(args[0].shape))
    )
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    arguments = {"max_new_tokens": 12, "do_sample": True, "seed": 3, "repetition_penalty": 1.2}
    out = model.generate(prompts(), attention_mask=mask, num_return_sequences=3, **arguments)
    assert shapes[:2] == [(2, 5), (6, 1)]
    hook.remove()
    each = model.generate(prompts()[[0, 0, 0, 1, 1, 1]], attention_mask=mask[[0, 0, 0, 1, 1, 1]], **arguments)
    assert torch.equal(out, each)
    assert len({tuple(row) for row in out[:3].tolist()}) == 3


def test_answers_are_drawn_as_often_as_they_are_likely(model: GlmForCausalLM) -> None:
    """Two tokens of 20,000 answers: chi-squared over the pairs, each with the probability of both."""
    with torch.no_grad():
        model.lm_head.weight.mul_(0.25)  # flat enough for many pairs
    draws, ids = 20_000, prompts(1)
    arguments = {"max_new_tokens": 2, "do_sample": True, "temperature": 1.5, "top_k": 4, "eos_token_id": []}
    out = model.generate(ids, num_return_sequences=draws, seed=8, **arguments)[:, 5:]
    pairs = {}
    for first, p in best_four(model, ids, 1.5):
        for second, q in best_four(model, torch.cat((ids, torch.tensor([[first]])), 1), 1.5):
            pairs[first, second] = p * q
    assert set(map(tuple, out.tolist())) <= set(pairs)
    chi_squared = 0.0
    for (first, second), share in pairs.items():
        found = int(((out[:, 0] == first) & (out[:, 1] == second)).sum())
        chi_squared += (found - draws * share) ** 2 / (draws * share)
    assert min(pairs.values()) * draws > 5
    assert chi_squared < 15 + 4 * 30**0.5


def best_four(model: GlmForCausalLM, ids: Tensor, temperature: float) -> list[tuple[int, float]]:
    top = (model(ids).logits[0, -1].double() / temperature).topk(4)
    return list(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))


def test_generation_config_says_what_no_argument_says(model: GlmForCausalLM) -> None:
    """A released GLM-4 folder samples unless told otherwise; one argument leaves the others as stated."""
    model.generation_config = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "max_length": 128000}
    ids, more = prompts(), {"max_new_tokens": 12, "eos_token_id": []}
    stated = model.generate(ids, seed=1, **more)
    assert torch.equal(
        stated, model.generate(ids, do_sample=True, temperature=0.8, top_p=0.8, seed=1, **more)
    )
    hotter = model.generate(ids, temperature=3.0, seed=1, **more)
    model.generation_config = {}
    assert torch.equal(
        hotter, model.generate(ids, do_sample=True, temperature=3.0, top_p=0.8, seed=1, **more)
    )
    greedy = model.generate(ids, **more)
    model.generation_config = {"do_sample": True, "temperature": 0.8}
    assert torch.equal(greedy, model.generate(ids, do_sample=False, **more))


def test_top_k_one_is_greedy(model: GlmForCausalLM) -> None:
    greedy = model.generate(prompts(), max_new_tokens=6)
    assert torch.equal(model.generate(prompts(), max_new_tokens=6, do_sample=True, top_k=1, seed=0), greedy)


def test_a_repetition_penalty_acts_on_prompt_and_answer_but_not_on_padding(model: GlmForCausalLM) -> None:
    def flat(hidden: Tensor) -> Tensor:
        scores = torch.zeros(len(hidden), 1, 97)
        scores[..., [40, 50, 60, 70]] = torch.tensor([1.4, 1.3, 1.2, 1.1])
        return scores

    model.lm_head.forward = flat  # type: ignore[method-assign]
    ids, mask = torch.tensor([[40, 20, 50]]), torch.tensor([[0, 1, 1]])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=4, repetition_penalty=2.0)
    assert out[0, 3:].tolist() == [40, 60, 70, 40]  # 50 is in the prompt, 40 there is padding


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(model: GlmForCausalLM) -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = model.generate(prompts(), attention_mask=mask, max_new_tokens=24)
    out = model.cuda().generate(prompts().cuda(), attention_mask=mask.cuda(), max_new_tokens=24)
    assert out.is_cuda
    assert torch.equal(out.cpu(), expected)
    assert torch.equal(model.generate(prompts(), attention_mask=mask, max_new_tokens=24), expected)
    narrow = model.to(torch.bfloat16).generate(prompts(), max_new_tokens=24, do_sample=True, seed=1)
    assert narrow.device.type == "cpu"
    assert int(narrow.max()) < 97
