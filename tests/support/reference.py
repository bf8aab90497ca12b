"""transformers' GLM with the same random weights as ours, the batches both are given, and how their numbers compare.

Shapes: B batch, T tokens, S past and new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glm_train.model.config import GlmConfig
from glm_train.model.decoder import GlmModel
from glm_train.model.heads import GlmForCausalLM
from support.tiny_models import SHAPE, VARIANTS
from support.tolerances import ATTENTION, DOCUMENT_LOSS, GRADIENT, LOGITS, LOSS

HEADS = {
    "model": "Model",
    "causal": "ForCausalLM",
    "sequence": "ForSequenceClassification",
    "token": "ForTokenClassification",
}
LENGTHS = (11, 6, 9)
PAD = 5


def pair(
    variant: str, seed: int = 0, head: str = "causal", attention: str = "sdpa", **changes: Any
) -> tuple[Any, Any]:
    """Our model and transformers', fp32, equal weights, in evaluation mode."""
    return pair_of(GlmConfig(**{**SHAPE, **VARIANTS[variant], **changes}), seed, head, attention)


def pair_of(
    config: GlmConfig, seed: int = 0, head: str = "causal", attention: str = "sdpa"
) -> tuple[Any, Any]:
    """As `pair`, for any configuration."""
    torch.manual_seed(seed)
    ours = our_class(head)(config)
    with torch.no_grad():  # norms and biases too, which start as ones and zeros
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    reference = transformers_model(config, head, attention)
    missing, unexpected = reference.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert all("inv_freq" in name for name in missing)
    return ours.eval(), reference.eval()


def our_class(head: str) -> Any:
    if head in ("model", "causal"):
        return GlmModel if head == "model" else GlmForCausalLM
    from glm_train.model import classification

    return getattr(classification, "Glm" + HEADS[head])


def transformers_config(config: GlmConfig, attention: str = "sdpa") -> Any:
    import transformers

    kind = transformers.Glm4Config if config.model_type == "glm4" else transformers.GlmConfig
    values = {k: v for k, v in config.to_dict().items() if k not in ("model_type", "architectures")}
    made = kind(**values)
    made._attn_implementation = attention
    if getattr(config, "bidirectional", False):
        made.is_causal = False
    return made


def transformers_model(config: GlmConfig, head: str = "causal", attention: str = "sdpa") -> Any:
    import transformers

    family = "Glm4" if config.model_type == "glm4" else "Glm"
    kind = getattr(transformers, family + HEADS[head])
    return kind(transformers_config(config, attention))


def ragged_batch(
    side: str = "right", lengths: Sequence[int] = LENGTHS, vocab: int = 97, pad: int | None = PAD
) -> tuple[Tensor, Tensor]:
    """Ids and mask (B, T) of rows of `lengths`; the padding id also stands inside, as a real token."""
    generator = torch.Generator().manual_seed(3)
    width = max(lengths)
    ids = torch.randint(0, vocab, (len(lengths), width), generator=generator)
    if pad is not None:
        ids[:, width // 2] = pad
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, slice(0, length) if side == "right" else slice(width - length, width)] = 1
    return torch.where(mask.bool(), ids, 0 if pad is None else pad), mask


def edges(lengths: Sequence[int] = LENGTHS) -> Tensor:
    """The `cu_seqlens` of a packed row: lengths 3 and 2 give [0, 3, 5]."""
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def assert_parity(
    ours: nn.Module, reference: nn.Module, given: dict[str, Any], theirs: Any = None, floor: float = 0.0
) -> None:
    """Both models, called with `given` (transformers' with `theirs`, where it differs), return the same numbers and
    get the same gradients: of the loss, or of a random weighting of the first output."""
    mine = ours(**given)
    expected = reference(**(given if theirs is None else theirs))
    assert_same_outputs(mine, expected)
    for output in (mine, expected):
        (output[0] if output[0].ndim == 0 else _weighed(output[0])).backward()
    assert_same_gradients(ours, reference, floor)


def _weighed(scores: Tensor) -> Tensor:
    return (scores * torch.randn(scores.shape, generator=torch.Generator().manual_seed(7))).sum()


def assert_same_outputs(mine: Any, expected: Any) -> None:
    """Every field that either side has is on the other side too, with the same numbers."""
    for name in ("loss", "logits", "last_hidden_state"):
        ours, theirs = getattr(mine, name, None), getattr(expected, name, None)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert_close(ours, theirs, name, _loss_tolerance(mine) if name == "loss" else LOGITS)
    for name in ("hidden_states", "attentions"):
        ours, theirs = getattr(mine, name) or (), getattr(expected, name) or ()
        assert len(ours) == len(theirs), name
        for layer, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_close(one, other, f"{name}[{layer}]", ATTENTION if name == "attentions" else LOGITS)
    assert_same_cache(getattr(mine, "past_key_values", None), getattr(expected, "past_key_values", None))


def _loss_tolerance(output: Any) -> float:
    return DOCUMENT_LOSS if output.logits.ndim == 2 else LOSS


def assert_same_cache(ours: Any, theirs: Any) -> None:
    """Keys and values of every layer are equal; `theirs` is transformers' cache object."""
    assert (ours is None) == (theirs is None), "past_key_values"
    if ours is None:
        return
    pairs = [(layer.keys, layer.values) for layer in ours.layers] if hasattr(ours, "layers") else list(ours)
    assert len(pairs) == len(theirs.layers)
    for index, ((keys, values), layer) in enumerate(zip(pairs, theirs.layers, strict=True)):
        assert_close(keys, layer.keys, f"keys[{index}]")
        assert_close(values, layer.values, f"values[{index}]")


def assert_close(actual: Tensor, expected: Tensor, what: str = "logits", tolerance: float = LOGITS) -> None:
    """Equal to `tolerance`, as a share of the largest expected value where that is above 1."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype, what
    difference = (actual - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item()), f"{what}: {difference}"


def assert_same_gradients(ours: nn.Module, reference: nn.Module, floor: float = 0.0) -> None:
    """Each parameter's gradient equals the reference's; parameters without one are the same on both sides.

    `GRADIENT` is a share of the largest value of the same tensor, or of `floor` times the largest of the whole model.
    """
    theirs = {name: parameter.grad for name, parameter in reference.named_parameters()}
    mine = {name: parameter.grad for name, parameter in ours.named_parameters()}
    assert mine.keys() == theirs.keys()
    least = floor * max(gradient.abs().max().item() for gradient in theirs.values() if gradient is not None)
    for name, gradient in mine.items():
        expected = theirs[name]
        assert (gradient is None) == (expected is None), name
        if gradient is not None and expected is not None:
            difference, largest = (gradient - expected).abs().max().item(), expected.abs().max().item()
            assert difference <= GRADIENT * max(largest, least), (
                f"{name}: {difference}, the largest is {largest}"
            )
