"""What `generate` refuses, and that each message names what is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glm_train.errors import CheckpointError
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE


@pytest.fixture(scope="module")
def untouched() -> GlmForCausalLM:
    torch.manual_seed(1)
    return GlmForCausalLM(GlmConfig(**SHAPE)).eval()


@pytest.fixture
def model(untouched: GlmForCausalLM) -> GlmForCausalLM:
    return copy.deepcopy(untouched)


IDS = torch.tensor([[20, 30], [40, 50]])
REFUSED: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: {"temperature": 0.5}, "temperature without do_sample=True"),
    (lambda: {"do_sample": False, "top_k": 3, "seed": 1}, "top_k, seed without do_sample=True"),
    (lambda: {"num_return_sequences": 2}, "num_return_sequences above 1 needs do_sample=True"),
    (lambda: {"num_return_sequences": 0}, "num_return_sequences must be a whole number, at least 1, found 0"),
    (lambda: {"do_sample": "yes"}, "do_sample must be True or False, found 'yes'"),
    (lambda: {"do_sample": True, "temperature": 0.0}, "temperature must be .*; do_sample=False is greedy"),
    (lambda: {"do_sample": True, "temperature": float("nan")}, "temperature must be .* found nan"),
    (lambda: {"do_sample": True, "top_p": 1.5}, "top_p must be above 0 and at most 1, found 1.5"),
    (lambda: {"do_sample": True, "top_p": 0}, "top_p must be"),
    (lambda: {"do_sample": True, "top_k": -1}, "top_k must be a whole number, 0 for no limit, found -1"),
    (lambda: {"do_sample": True, "top_k": 2.5}, "top_k must be"),
    (lambda: {"do_sample": True, "min_p": 2}, "min_p must be from 0 to 1"),
    (lambda: {"repetition_penalty": 0}, "repetition_penalty must be a number above 0"),
    (lambda: {"do_sample": True, "seed": 1, "generator": torch.Generator()}, "seed and generator"),
    (lambda: {"do_sample": True, "seed": -1}, "seed must be a whole number"),
    (lambda: {"max_new_tokens": 0}, "max_new_tokens must be a whole number, at least 1, found 0"),
    (lambda: {"max_new_tokens": True}, "max_new_tokens must be"),
    (lambda: {"max_new_tokens": 3, "max_length": 9}, "max_new_tokens and max_length"),
    (lambda: {"max_length": 2}, "max_length 2 counts the prompt, which has 2 tokens"),
    (lambda: {"eos_token_id": [7, 97]}, r"eos_token_id must be ids from 0 to 96, found \[7, 97\]"),
    (lambda: {"eos_token_id": -1}, "eos_token_id must be ids"),
    (lambda: {"pad_token_id": 2.0}, "pad_token_id must be an id from 0 to 96, found 2.0"),
    (lambda: {"input_ids": IDS[0]}, r"input_ids must be \(batch, at least one token\), found shape \(2,\)"),
    (lambda: {"input_ids": IDS[:, :0]}, "at least one token"),
    (lambda: {"input_ids": IDS[:0]}, "at least one token"),
    (lambda: {"input_ids": IDS.float()}, "input_ids must be whole numbers .* found torch.float32"),
    (lambda: {"input_ids": IDS + 50}, "input_ids must be from 0 to 96, found 100"),
    (lambda: {"input_ids": IDS - 30}, "input_ids must be from 0 to 96, found -10"),
    (
        lambda: {"attention_mask": torch.tensor([[1, 1], [1, 0]])},
        "row 1 is padded on the right.*pad on the left",
    ),
    (lambda: {"attention_mask": torch.tensor([[1, 1], [0, 0]])}, "hides all of row 1"),
    (lambda: {"attention_mask": torch.ones(2, 3)}, r"the shape of input_ids \(2, 2\), found \(2, 3\)"),
    (lambda: {"attention_mask": torch.ones(2, 1, 2, 2)}, "the shape of input_ids"),
    (lambda: {"attention_mask": IDS}, "1 for real tokens and 0 for padding"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused(
    model: GlmForCausalLM, arguments: Callable[[], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(**{"input_ids": IDS, **arguments()})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": IDS, "max_tokens": 3}, "no argument 'max_tokens'. Did you mean 'max_new_tokens'"),
        (
            {"input_ids": IDS, "num_beams": 3},
            "no argument 'num_beams'.* It takes input_ids, max_new_tokens, ",
        ),
        ({}, "takes the prompts as input_ids"),
        ({"input_ids": IDS, "inputs": IDS}, "takes the prompts as input_ids"),
        ({"input_ids": [[1, 2]]}, "found a list; a tokenizer makes one with return_tensors='pt'"),
        ({"input_ids": {"input_ids": IDS}}, r"found a dict; pass \*\*batch"),
        (
            {"input_ids": IDS, "streamer": "stdout"},
            "streamer must be callable, or have put and end; found str",
        ),
    ],
)
def test_what_does_not_exist_is_named(model: GlmForCausalLM, arguments: dict, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        model.generate(**arguments)


def test_a_wrong_generation_config_is_named(model: GlmForCausalLM) -> None:
    model.generation_config = {"temperature": "hot"}
    model.generate(IDS, max_new_tokens=1)  # greedy: it does not matter
    with pytest.raises(
        CheckpointError, match=r"the model's generation_config: temperature must be .* found 'hot'"
    ):
        model.generate(IDS, max_new_tokens=1, do_sample=True)


def test_a_bidirectional_model_does_not_generate(model: GlmForCausalLM) -> None:
    model.config.bidirectional = True
    with pytest.raises(ValueError, match="a bidirectional model reads whole texts"):
        model.generate(IDS, max_new_tokens=2)


def test_scores_that_are_no_numbers_are_named(model: GlmForCausalLM) -> None:
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(CheckpointError, match="not finite: its weights have diverged, or float16 overflowed"):
        model.generate(IDS, max_new_tokens=2)
