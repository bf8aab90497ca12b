"""What generation tells a streamer, and what it leaves behind: modes, tensors, the model's own state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from glm_train.model import generation
from glm_train.model.config import GlmConfig
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE


@pytest.fixture
def model() -> GlmForCausalLM:
    torch.manual_seed(1)
    return GlmForCausalLM(GlmConfig(**SHAPE)).eval()


def prompts(rows: int = 2, tokens: int = 5) -> Tensor:
    return torch.randint(10, 90, (rows, tokens), generator=torch.Generator().manual_seed(2))


class Streamer:
    """As transformers' streamers are: told the prompt, then tokens on the CPU, then the end."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.heard.append(value.tolist())

    def end(self) -> None:
        self.heard.append("end")


def test_streamers_hear_every_step(model: GlmForCausalLM) -> None:
    heard: list[list[int]] = []
    streamer = Streamer()
    out = model.generate(prompts(), max_new_tokens=4, streamer=lambda tokens: heard.append(tokens.tolist()))
    assert torch.equal(model.generate(prompts(), max_new_tokens=4, streamer=streamer), out)
    assert heard == out[:, 5:].T.tolist()
    assert streamer.heard == [prompts().tolist(), *heard, "end"]


def test_transformers_own_streamer_works(model: GlmForCausalLM) -> None:
    from transformers import TextIteratorStreamer

    class Spelling:
        def decode(self, ids: list[int]) -> str:
            return "".join(f"{i} " for i in ids)

    streamer = TextIteratorStreamer(Spelling(), skip_prompt=True)
    out = model.generate(prompts(1), max_new_tokens=4, streamer=streamer)
    assert "".join(streamer).split() == [str(i) for i in out[0, 5:].tolist()]


def test_a_streamer_that_fails_is_told_of_the_end(model: GlmForCausalLM) -> None:
    class Failing(Streamer):
        def put(self, value: Tensor) -> None:
            super().put(value)
            if len(self.heard) == 3:
                raise KeyboardInterrupt

    model.train()
    model.model.layers[1].eval()
    streamer = Failing()
    with pytest.raises(KeyboardInterrupt):
        model.generate(prompts(1), max_new_tokens=9, streamer=streamer)
    assert streamer.heard[-1] == "end"
    assert [layer.training for layer in model.model.layers] == [True, False, True]
    assert model.training
    assert not model.model.layers[1].mlp.training


def test_outputs_serve_in_training(model: GlmForCausalLM) -> None:
    out = model.train().generate(prompts(), max_new_tokens=4)
    model(out, labels=out).loss.backward()
    assert model.lm_head.weight.grad is not None


@pytest.mark.parametrize("launched", [False, True])
def test_nothing_that_is_left_is_an_inference_tensor(
    model: GlmForCausalLM, launched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the model keeps what a forward made; and among several processes gradients stay off too."""
    modes: set[tuple[bool, bool]] = set()
    monkeypatch.setattr(generation, "is_launched", lambda: launched)
    heard: list[Tensor] = []
    lm_head = model.lm_head.forward

    def listening(hidden: Tensor) -> Tensor:
        modes.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return lm_head(hidden)

    model.lm_head.forward = listening  # type: ignore[method-assign]
    model.model._inverse_frequencies = model.model._inverse_frequencies.to("meta")  # to be made anew
    out = model.generate(prompts(), max_new_tokens=4, eos_token_id=[], streamer=heard.append)
    assert modes == {(False, False), (False, not launched)}
    assert torch.is_grad_enabled()
    kept = [*model.parameters(), *model.buffers(), model.model._inverse_frequencies, out, *heard]
    assert not any(tensor.is_inference() for tensor in kept)


@pytest.mark.parametrize(("limit", "rows", "room"), [(12, 1, 17), (12, 3, 17), (10**9, 3, 5 + 1 + 1024)])
def test_the_cache_has_room_for_what_may_come_soon(
    model: GlmForCausalLM, limit: int, rows: int, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[generation.KeyValueCache] = []
    make = generation.KeyValueCache

    def listening() -> generation.KeyValueCache:
        caches.append(make())
        return caches[-1]

    monkeypatch.setattr(generation, "KeyValueCache", listening)
    stop = [] if limit == 12 else list(range(49))  # half of the vocabulary
    arguments = {"do_sample": True, "num_return_sequences": rows, "seed": 3}
    model.generate(prompts(1), max_new_tokens=limit, eos_token_id=stop, **arguments)
    assert held(caches[0]) == rows * room


def held(cache: generation.KeyValueCache) -> int:
    """Tokens of all rows that the first layer's keys have room for."""
    return cache[0][0].untyped_storage().nbytes() // (2 * 16 * 4)


@pytest.mark.parametrize("use_cache", [True, False])
def test_switches_of_the_config_do_not_matter(model: GlmForCausalLM, use_cache: bool) -> None:
    expected = model.generate(prompts(), max_new_tokens=6)
    model.config.use_cache, model.config.return_dict = use_cache, False
    model.config.output_attentions = model.config.output_hidden_states = True
    assert torch.equal(model.generate(prompts(), max_new_tokens=6), expected)
