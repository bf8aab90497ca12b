"""Room for new tokens: spare rows first, new rows in the middle of the old, nothing else touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel
from glm_train.model.heads import GlmForCausalLM
from glm_train.model.resize import resize_token_embeddings
from support.reference import transformers_model
from support.tiny_models import SHAPE

ROWS = SHAPE["vocab_size"]


def make(kind: Callable[[GlmConfig], nn.Module] = GlmForCausalLM, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(GlmConfig(**{**SHAPE, **changes}))


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old_ones(tied: bool) -> None:
    model = make(tie_word_embeddings=tied)
    embedding, head = model.get_input_embeddings(), model.lm_head
    old, old_head = embedding.weight.detach().clone(), head.weight.detach().clone()
    assert resize_token_embeddings(model, ROWS + 3) is embedding is model.get_input_embeddings()
    for weight, before in ((embedding.weight, old), (head.weight, old_head)):
        assert torch.equal(weight[:ROWS], before)
        assert torch.equal(weight[ROWS:], before.mean(0).expand(3, -1))
        assert weight.requires_grad
    assert (head.weight is embedding.weight) == tied
    assert model.config.vocab_size == model.model.config.vocab_size == ROWS + 3
    assert (embedding.num_embeddings, head.out_features) == (ROWS + 3, ROWS + 3)
    assert embedding.padding_idx == SHAPE["pad_token_id"]


def test_old_tokens_score_as_before_and_new_ones_are_average() -> None:
    model, ids = make().eval(), torch.randint(6, ROWS, (2, 9))
    with torch.no_grad():
        before = model(ids).logits
        resize_token_embeddings(model, ROWS + 2)
        after = model(ids).logits
    assert torch.allclose(after[..., :ROWS], before, atol=1e-5)
    assert torch.allclose(after[..., ROWS:], before.mean(-1, keepdim=True).expand(-1, -1, 2), atol=1e-4)


def test_as_transformers_but_for_its_noise() -> None:
    ours = make()
    theirs = transformers_model(ours.config)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.resize_token_embeddings(ROWS + 5, pad_to_multiple_of=8)
    resize_token_embeddings(ours, ROWS + 5, pad_to_multiple_of=8)
    assert ours.config.vocab_size == theirs.config.vocab_size == 104
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        expected = theirs.state_dict()[name]
        assert torch.allclose(ours.state_dict()[name], expected, atol=1e-3), (
            "they add noise of 3e-5 deviations"
        )


@pytest.mark.parametrize(
    ("new", "multiple", "rows"),
    [
        (None, None, ROWS),
        (ROWS, None, ROWS),
        (1, None, ROWS),
        (90, 8, ROWS),  # 96 rows are there
        (ROWS, 64, 128),
        (90, 64, 128),
        (None, 64, 128),
        (None, 97, ROWS),
        (ROWS + 1, None, ROWS + 1),
        (ROWS + 1, 8, 104),
    ],
)
def test_rows_are_added_where_they_are_missing_and_never_dropped(
    new: int | None, multiple: int | None, rows: int
) -> None:
    model = make()
    before = model.get_input_embeddings().weight
    assert resize_token_embeddings(model, new, multiple).weight.shape == (rows, SHAPE["hidden_size"])
    assert model.config.vocab_size == model.lm_head.weight.shape[0] == rows
    assert (model.get_input_embeddings().weight is before) == (rows == ROWS)


def test_the_spare_rows_of_glm_are_used_first() -> None:
    model = make(GlmModel, vocab_size=151552, hidden_size=2, num_hidden_layers=1)
    weight = model.embed_tokens.weight
    assert resize_token_embeddings(model, 151343 + 209).weight is weight
    assert resize_token_embeddings(model, 151343 + 210).weight.shape[0] == 151553


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_and_what_is_frozen_stay(dtype: torch.dtype) -> None:
    model = make().to(dtype)
    model.get_input_embeddings().weight.requires_grad_(False)
    old = model.get_input_embeddings().weight.clone()
    weight = resize_token_embeddings(model, ROWS + 1).weight
    assert (weight.dtype, weight.requires_grad, model.lm_head.weight.requires_grad) == (dtype, False, True)
    exact = torch.float32 if dtype == torch.bfloat16 else dtype
    assert torch.equal(weight[-1], old.to(exact).mean(0).to(dtype))


def test_a_model_without_a_head_and_one_on_the_meta_device() -> None:
    bare = make(GlmModel)
    assert resize_token_embeddings(bare, 100).num_embeddings == bare.config.vocab_size == 100
    with torch.device("meta"):
        planned = make()
    assert resize_token_embeddings(planned, 100).weight.is_meta
    assert planned.lm_head.weight.shape == (100, SHAPE["hidden_size"])


def test_a_resized_model_trains_and_its_padding_row_does_not() -> None:
    model = make()
    resize_token_embeddings(model, 120)
    ids = torch.tensor([[6, 99, 119, SHAPE["pad_token_id"]]])
    model(ids, labels=ids).loss.backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient[119].abs().sum() > 0
    assert gradient[SHAPE["pad_token_id"]].abs().sum() == 0


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "100", True])
def test_numbers_that_are_no_sizes_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="new_num_tokens: expected a positive whole number"):
        resize_token_embeddings(make(), wrong)
    with pytest.raises(ValueError, match="pad_to_multiple_of: expected a positive whole number"):
        resize_token_embeddings(make(), 100, wrong)


def test_a_sharded_model_is_refused() -> None:
    model = make()
    model.get_input_embeddings().weight.placements = ()  # what a DTensor has
    with pytest.raises(ValueError, match="sharded already"):
        resize_token_embeddings(model, 100)
