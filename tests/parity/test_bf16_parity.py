"""bf16 against transformers: as near to it as its own rounding is, and no farther from fp32.

bf16 keeps eight bits, so two right implementations differ by their order of rounding, and a bound on logits says
little. What counts is the distribution of the next token: KL divergence in nats, a token, from transformers in bf16 to
ours, beside the distance of each to transformers in fp32 with the same (bf16) weights.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.reference import pair
from support.tolerances import BF16_KL_MAX, BF16_KL_MEAN, BF16_SHARE

VARIANTS = ("glm", "glm-edge", "glm4", "glm4-gqa4-nobias", "glm4-head-dim")


def divergence(expected: Tensor, actual: Tensor) -> Tensor:
    """KL(expected || actual) of each token."""
    log_p, log_q = expected.float().log_softmax(-1), actual.float().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).flatten()


def in_bf16(model: nn.Module) -> nn.Module:
    """A copy with bf16 weights. Its frequencies stay in fp32, as `from_pretrained` has them, and not `.bfloat16()`."""
    rounded = copy.deepcopy(model).bfloat16()
    for part, original in zip(rounded.modules(), model.modules(), strict=True):
        if hasattr(part, "inv_freq"):
            part.inv_freq = original.inv_freq.clone()
    return rounded


def trio(variant: str, seed: int, mixed: bool) -> tuple[Any, Any, Any]:
    """Ours and transformers' for bf16, and transformers' in fp32 with the same weights."""
    ours, reference = pair(variant, seed, initializer_range=0.1)
    if mixed:
        return ours, reference, copy.deepcopy(reference)
    theirs = in_bf16(reference)
    exact = copy.deepcopy(reference)
    exact.load_state_dict(theirs.state_dict())
    return in_bf16(ours), theirs, exact


def distance(model: nn.Module, exact: nn.Module) -> float:
    """The norm of the error of all gradients together."""
    true = {name: parameter.grad for name, parameter in exact.named_parameters()}
    errors = [(p.grad.float() - true[name]).norm() for name, p in model.named_parameters()]
    return torch.stack(errors).norm().item()


@pytest.mark.parametrize("mixed", [False, True], ids=["bf16 weights", "autocast"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_as_near_to_transformers_as_rounding_lets_it(variant: str, mixed: bool) -> None:
    between, ours_off, theirs_off, shares = [], [], [], []
    for seed in range(2):
        ours, theirs, exact = trio(variant, seed, mixed)
        ids = torch.randint(0, 97, (4, 64), generator=torch.Generator().manual_seed(seed))
        outputs = []
        for model in (ours, theirs, exact):
            low = mixed and model is not exact
            context: AbstractContextManager[Any] = (
                torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
            )
            with context:
                outputs.append(model(input_ids=ids, labels=ids))
            outputs[-1].loss.backward()
        mine, reference, true = (out.logits.detach() for out in outputs)
        assert mine.dtype == reference.dtype == torch.bfloat16
        between.append(divergence(reference, mine))
        ours_off.append(divergence(true, mine))
        theirs_off.append(divergence(true, reference))
        shares.append(distance(ours, exact) / distance(theirs, exact))
    assert torch.cat(between).mean() <= BF16_KL_MEAN
    assert torch.cat(between).max() <= BF16_KL_MAX
    assert torch.cat(ours_off).mean() <= BF16_SHARE * torch.cat(theirs_off).mean()
    assert max(shares) <= BF16_SHARE


@pytest.mark.parametrize("variant", ["glm", "glm4"])
def test_the_norm_rounds_before_its_weight_as_in_transformers(variant: str) -> None:
    """The original remote code rounds after it, so that many a last bit differs."""
    ours, theirs, _ = trio(variant, 0, mixed=False)
    x = torch.randn(50, 48, generator=torch.Generator().manual_seed(0)).bfloat16() * 3
    for mine, reference in zip(ours.model.layers, theirs.model.layers, strict=True):
        for name, norm in mine.named_children():
            if "layernorm" in name:
                out = norm(x)
                late = (
                    x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + norm.eps)
                ) * norm.weight
                assert (out != getattr(reference, name)(x)).float().mean() < 0.002
                assert (out != late.bfloat16()).float().mean() > 0.05


def test_attentions_and_scores_of_the_eager_path_equal_transformers_in_bf16() -> None:
    ours, reference = pair("glm4", attention="eager", initializer_range=0.1)
    ours, reference = in_bf16(ours), in_bf16(reference)
    ids = torch.randint(0, 97, (2, 33), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    with torch.no_grad():
        mine = ours(ids, attention_mask=mask, output_attentions=True)
        theirs = reference(input_ids=ids, attention_mask=mask, output_attentions=True)
    for weights, expected in zip(mine.attentions, theirs.attentions, strict=True):
        assert weights.dtype == torch.bfloat16
        assert torch.allclose(weights.float(), expected.float(), atol=0.02)
    real = mask.bool().flatten()
    assert divergence(theirs.logits, mine.logits)[real].mean() <= BF16_KL_MEAN
