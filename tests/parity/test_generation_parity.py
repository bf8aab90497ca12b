"""Generated tokens against transformers': greedy, up to 256 for eight ragged prompts, and drawn from one seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glm_train.model.heads import GlmForCausalLM
from support.reference import pair
from support.tiny_models import VARIANTS

LONG, SHORT = 256, 64
LONG_VARIANTS = ("glm", "glm4", "glm-mqa", "glm4-head-dim")
# The padding id is 5, as in the configuration; the variant without one gets it here.
PAD = 5


def ragged(rows: int = 8, width: int = 24) -> tuple[Tensor, Tensor]:
    """Prompts of 3, 6, ... 24 tokens, padded on the left; some hold the padding id as a real token."""
    ids = torch.randint(0, 97, (rows, width), generator=torch.Generator().manual_seed(5))
    lengths = torch.linspace(3, width, rows).long()
    mask = (torch.arange(width) >= width - lengths[:, None]).long()
    return torch.where(mask.bool(), ids, PAD), mask


def both(variant: str, **arguments: Any) -> tuple[Tensor, Tensor]:
    """Ours and transformers', each from the same random state."""
    return continued(*pair(variant), *ragged(), **arguments)


def continued(
    ours: GlmForCausalLM, reference: nn.Module, ids: Tensor, mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    mine = ours.generate(ids, attention_mask=mask, **arguments)
    theirs = dict(arguments)
    if theirs.get("eos_token_id") == []:
        reference.generation_config.eos_token_id = theirs["eos_token_id"] = None
    torch.manual_seed(3)
    return mine, reference.generate(input_ids=ids, attention_mask=mask, **theirs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_of_a_ragged_batch(variant: str) -> None:
    new = LONG if variant in LONG_VARIANTS else SHORT
    ours, theirs = both(variant, max_new_tokens=new, do_sample=False, eos_token_id=[], pad_token_id=PAD)
    assert ours.shape == (8, 24 + new)
    assert torch.equal(ours, theirs)
    assert len(ours[:, 24:].unique()) > 8  # not one token repeated


@pytest.mark.parametrize("variant", ["glm", "glm4"])
def test_greedy_tokens_without_padding(variant: str) -> None:
    ids, _ = ragged()
    ours, theirs = continued(
        *pair(variant), ids[-1:], None, max_new_tokens=LONG, eos_token_id=[], pad_token_id=PAD
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("stop", [[*range(30)], [40], 40])
def test_rows_stop_at_any_stop_id_and_are_padded(stop: int | list[int]) -> None:
    ours, theirs = both("glm4", max_new_tokens=40, eos_token_id=stop, pad_token_id=PAD)
    assert torch.equal(ours, theirs)
    assert (ours.shape[1] < 24 + 40) == (stop == [*range(30)])


@pytest.mark.parametrize("penalty", [1.4, 0.8])
def test_greedy_tokens_with_a_repetition_penalty(penalty: float) -> None:
    """Rows with padding: transformers, too, does not count it as said."""
    ours, theirs = both(
        "glm", max_new_tokens=64, repetition_penalty=penalty, eos_token_id=[], pad_token_id=PAD
    )
    assert torch.equal(ours, theirs)
    plain, _ = both("glm", max_new_tokens=64, eos_token_id=[], pad_token_id=PAD)
    assert not torch.equal(ours, plain)


@pytest.mark.parametrize(
    "arguments",
    [
        {},  # top_k 50
        {"top_k": 0},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
        {"temperature": 3.0, "num_return_sequences": 3},
    ],
)
@pytest.mark.parametrize("variant", ["glm", "glm4-gqa4-nobias"])
def test_drawn_tokens_of_one_random_state(variant: str, arguments: dict[str, Any]) -> None:
    ours, theirs = both(variant, max_new_tokens=48, do_sample=True, pad_token_id=PAD, **arguments)
    assert torch.equal(ours, theirs)


def test_folder_defaults_mean_the_same() -> None:
    """What released GLM-4 chat folders say in generation_config.json."""
    stated = {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.8,
        "max_length": 60,
        "repetition_penalty": 1.1,
    }
    ours, reference = pair("glm4")
    ours.generation_config = stated
    reference.generation_config.update(**stated)
    ids, mask = ragged()
    mine, theirs = continued(ours, reference, ids, mask)
    assert torch.equal(mine, theirs)
    mine, theirs = continued(ours, reference, ids, mask, temperature=2.0, max_new_tokens=20)
    assert torch.equal(mine, theirs)


def test_streamers_hear_what_transformers_tells_them() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def put(self, value: Tensor) -> None:
            self.heard.append(value.tolist())

        def end(self) -> None:
            self.heard.append("end")

    ids, mask = ragged()
    heard = []
    for model in pair("glm"):
        heard.append(Streamer())
        torch.manual_seed(0)
        model.generate(
            ids[:2], attention_mask=mask[:2], max_new_tokens=6, do_sample=True, num_return_sequences=2,
            streamer=heard[-1],
        )  # fmt: skip
    assert heard[0].heard == heard[1].heard
    assert len(heard[0].heard) > 3
