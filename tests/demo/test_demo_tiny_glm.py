"""The demo's model folder: a GLM-4 in small, which transformers and our own code load alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from glm_train.demo import tiny_glm
from glm_train.model.config import GlmConfig


@pytest.fixture(scope="module")
def folder(demo: Path) -> Path:
    return demo / "tiny-glm"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_special_tokens_follow_the_base_vocabulary_in_glm_order(folder: Path, tokenizer: Tokenizer) -> None:
    base = tokenizer.get_vocab_size(with_added_tokens=False)
    # GLM-4 has them from 151329; the distances from the first are the same here.
    glm4 = {
        "<|endoftext|>": 151329,
        "[gMASK]": 151331,
        "<sop>": 151333,
        "<|system|>": 151335,
        "<|user|>": 151336,
    }
    glm4 |= {"<|assistant|>": 151337, "<|observation|>": 151338, "<|end_of_video|>": 151342}
    assert {t: tokenizer.token_to_id(t) - base for t in glm4} == {t: i - 151329 for t, i in glm4.items()}
    config = GlmConfig.from_pretrained(folder)
    assert tokenizer.get_vocab_size() <= config.vocab_size
    assert config.vocab_size % 64 == 0
    stops = [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert config.eos_token_ids == generation["eos_token_id"] == stops
    assert config.pad_token_id == generation["pad_token_id"] == stops[0]


@pytest.mark.parametrize(
    "text", ["What is AI?", "离银河系最近的星系", "    def f(x):\n\n\treturn x", "🦙 ̈́\x00\r\n", ""]
)
def test_any_text_comes_back_the_same(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_text_is_cut_as_glm_cuts_it(tokenizer: Tokenizer) -> None:
    """Digits in threes, contractions apart, a newline never inside a word: the published pattern at work."""
    pieces = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("It's 12345 km.\n\nfor you")]
    assert pieces == ["It", "'s", "Ġ", "123", "45", "Ġkm", ".ĊĊ", "for", "Ġyou"]


def test_weights_are_those_of_a_fresh_glm(folder: Path) -> None:
    config = GlmConfig.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name, array in weights.items():
        assert array.dtype == np.float32
        if name.endswith("norm.weight"):
            assert (array == 1).all()
        elif name.endswith(".bias"):
            assert (array == 0).all()
        else:
            assert abs(array.std() / config.initializer_range - 1) < 0.05, name
            assert abs(array.mean()) < 0.05 * config.initializer_range, name
    assert (weights["model.embed_tokens.weight"][config.pad_token_id] == 0).all()
    assert 1e6 < sum(array.size for array in weights.values()) < 5e6


def test_a_seed_draws_other_weights_and_every_tensor_its_own() -> None:
    config = tiny_glm.make_config()
    zero, again, one = (tiny_glm.random_weights(config, seed) for seed in (0, 0, 1))
    name, other = (f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1))
    assert (zero[name] == again[name]).all()
    assert (zero[name] != one[name]).mean() > 0.99
    assert (zero[name] != zero[other]).mean() > 0.99


def test_our_own_model_takes_every_tensor(folder: Path) -> None:
    import torch

    from glm_train.model.heads import GlmForCausalLM

    model = GlmForCausalLM(GlmConfig.from_pretrained(folder))
    weights = {
        name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()
    }
    model.load_state_dict(weights, strict=True)


def test_transformers_loads_the_folder(folder: Path, tokenizer: Tokenizer) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GlmForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, GlmForCausalLM)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.generation_config.eos_token_id == model.config.eos_token_id

    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.eos_token == theirs.pad_token == "<|endoftext|>"
    assert theirs.padding_side == "left"
    text = "<|user|>\nWhat is AI? 你好"
    assert theirs(text)["input_ids"] == tokenizer.encode(text).ids
    ids = theirs.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    assert theirs.decode(ids[0]) == "[gMASK]<sop><|user|>\nhi<|assistant|>"
    with torch.no_grad():
        logits = model(ids).logits
    assert logits.shape == (1, ids.shape[1], model.config.vocab_size)
    assert torch.isfinite(logits).all()
