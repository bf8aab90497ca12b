"""An adapted model: what is frozen, in which dtype, and that the rest of the framework can work with it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from glm_train import GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification
from glm_train.adapters.lora import LoraSettings, adapter_tensors, add_adapter, restore_adapter_tensors
from glm_train.losses.linear_cross_entropy import linear_cross_entropy
from glm_train.optim.groups import parameter_groups
from glm_train.parallel.parallelize import parallelize
from support.adapted import adapted, ids
from support.tiny_heads import make

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"rslora": True, "init": "gaussian"},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
    "olora-dora": {"init": "olora", "dora": True},
    "head": {"targets": ("all-linear", "lm_head")},
    "head-dora": {"targets": ("q_proj", "lm_head"), "dora": True},
    "tokens": {"new_tokens": (11, 40)},
    "whole": {"modules_to_save": ("embed_tokens", "model.norm", "lm_head")},
}


def _packed_loss(model: Any, tokens: Tensor) -> Tensor:
    """The loss of one packed row of two documents, as training takes it: from hidden states and the head's weight."""
    edges = torch.tensor([0, 9, 18], dtype=torch.int32)
    positions = torch.arange(9).repeat(2)
    keep = torch.tensor([i for i in range(18) if i % 9 != 8])
    hidden = model.model.packed_hidden(tokens.flatten(), positions, edges, 9, keep)
    return linear_cross_entropy(hidden, model.lm_head.weight, tokens.flatten()[keep + 1], scale=1 / len(keep))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_keeps_its_dtype_and_what_is_trained_is_fp32(kind: str, dtype: torch.dtype) -> None:
    model = make().to(dtype).train()
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters()}
    add_adapter(model, LoraSettings(r=4, **KINDS[kind]))
    model(ids(), labels=ids()).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else dtype), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if not parameter.requires_grad:
            assert torch.equal(
                parameter, frozen[name.replace(".base_layer", "").replace("frozen_weight", "weight")]
            ), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_no_answer(kind: str) -> None:
    model = make()
    before = model(ids()).logits
    add_adapter(model, LoraSettings(r=4, **KINDS[kind]))
    torch.testing.assert_close(model(ids()).logits, before, rtol=1e-5, atol=1e-5)
    adapted_ = adapted(make(), **KINDS[kind])
    assert (adapted_(ids()).logits - before).abs().max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_packed_training_and_forward_agree_on_the_loss_and_every_gradient(kind: str) -> None:
    """Also where the head is adapted: packed training reads its weight and not its output."""
    model = adapted(make(), **KINDS[kind])
    tokens = ids()
    model(tokens, labels=tokens).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = _packed_loss(model, tokens)
    torch.testing.assert_close(loss, model(tokens, labels=tokens).loss)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_gives_equal_gradients(kind: str) -> None:
    drop = 0.0 if kind.startswith("head") else 0.2
    model = adapted(make(), dropout=drop, **KINDS[kind]).train()
    checked = copy.deepcopy(model)
    parallelize(checked, activation_checkpointing="full", compile=False)
    for each in (model, checked):
        torch.manual_seed(7)
        _packed_loss(each, ids()).backward()
    for (name, parameter), other in zip(model.named_parameters(), checked.parameters(), strict=True):
        if parameter.requires_grad:
            assert torch.equal(parameter.grad, other.grad), name  # type: ignore[arg-type]


@pytest.mark.slow
def test_compiled_layers_give_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend="aot_eager"))
    model = adapted(make(num_hidden_layers=1), dora=True, targets=("q_proj", "down_proj")).train()
    compiled = copy.deepcopy(model)
    parallelize(compiled, activation_checkpointing="none", compile=True)
    for each in (model, compiled):
        _packed_loss(each, ids()).backward()
    for (name, parameter), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_deep_copy_is_a_model_of_its_own(kind: str) -> None:
    model = adapted(make(), **KINDS[kind])
    copied = copy.deepcopy(model)
    before = model(ids()).logits
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(ids()).logits, before)
    assert list(copied.state_dict()) == list(model.state_dict())


def test_the_order_of_parameters_is_the_models_own() -> None:
    names = [[name for name, _ in adapted(make()).named_parameters()] for _ in range(2)]
    assert names[0] == names[1]
    layer = "model.layers.0.self_attn.q_proj"
    at = names[0].index(f"{layer}.base_layer.weight")
    assert names[0][at : at + 4] == [
        f"{layer}.base_layer.weight",
        f"{layer}.base_layer.bias",
        f"{layer}.lora_A.default.weight",
        f"{layer}.lora_B.default.weight",
    ]


def test_the_modes_of_the_model_are_kept() -> None:
    for mode in (True, False):
        model = make().train(mode)
        add_adapter(model, LoraSettings(dropout=0.5))
        assert {part.training for part in model.modules()} == {mode}


def test_a_tied_model_stays_tied_when_its_embedding_is_trained() -> None:
    model = adapted(make(tie_word_embeddings=True).to(torch.bfloat16), modules_to_save=("lm_head",))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.dtype == torch.float32
    model(ids(), labels=ids()).loss.backward()
    assert model.lm_head.weight.grad is not None


@pytest.mark.parametrize("tied", [False, True])
def test_of_new_tokens_only_their_own_rows_are_trained(tied: bool) -> None:
    model = make(tie_word_embeddings=tied).train()
    add_adapter(model, LoraSettings(r=2, new_tokens=(11, 40)))
    before = model.lm_head.weight.detach().clone()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=0.1)
    tokens = torch.tensor([[3, 11, 40, 11, 5, 6, 7, 40, 9]])
    model(tokens, labels=tokens).loss.backward()
    optimizer.step()
    after = model.lm_head.weight.detach()
    assert (after != before).any(dim=1).nonzero().flatten().tolist() == [11, 40]
    looked_up = model.model.embed_tokens(torch.arange(64)).detach()
    stored = model.model.embed_tokens._parameters["weight"]
    assert (looked_up != stored).any(dim=1).nonzero().flatten().tolist() == [11, 40]
    assert torch.equal(looked_up[[11, 40]], model.model.embed_tokens.trainable_tokens_delta)
    names = [name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name]
    own = ["model.embed_tokens.trainable_tokens_delta", "lm_head.trainable_tokens_delta"]
    assert names == own[: 1 if tied else 2]


@pytest.mark.parametrize("head", [GlmForSequenceClassification, GlmForTokenClassification])
def test_a_classification_head_is_trained_whole_and_in_fp32(head: type) -> None:
    model = make(head, num_labels=3).to(torch.bfloat16)
    add_adapter(model, LoraSettings())
    assert model.score.weight.requires_grad
    assert model.score.weight.dtype == torch.float32
    assert model(ids()).logits.dtype == torch.float32
    assert any(name.endswith("model.score.weight") for name in adapter_tensors(model))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_resume_needs_is_adapter_tensors_and_nothing_else(kind: str) -> None:
    model = adapted(make(), **KINDS[kind])
    kept = {name: tensor.clone() for name, tensor in adapter_tensors(model).items()}
    torch.manual_seed(99)  # first values of the resumed process may differ
    resumed = make()
    add_adapter(resumed, LoraSettings(r=4, **KINDS[kind]))
    restore_adapter_tensors(resumed, kept)
    assert torch.equal(resumed(ids()).logits, model(ids()).logits)


def test_another_adapters_tensors_are_not_restored() -> None:
    model = adapted(make())
    before = model(ids()).logits
    with pytest.raises(ValueError, match="on one side only"):
        restore_adapter_tensors(model, adapter_tensors(adapted(make(), dora=True)))
    with pytest.raises(ValueError, match=r"is \[2, 16\], expected \[4, 16\]"):
        restore_adapter_tensors(model, adapter_tensors(adapted(make(), r=2)))
    assert torch.equal(model(ids()).logits, before)


def test_a_step_keeps_no_more_activations_than_full_training_and_its_ranks() -> None:
    """Bytes that autograd keeps beside the parameters: a layer's input is kept once, for all that read it."""

    def kept_bytes(model: GlmForCausalLM) -> int:
        parameters = {p.data_ptr() for p in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = _packed_loss(model, ids())
        del loss
        return sum(kept.values())

    full, lora = make().train(), make().train()
    add_adapter(lora, LoraSettings(r=4))
    ranks = 2 * 6 * 18 * 4 * 4  # layers, adapted per layer, tokens, rank, bytes
    assert 0 < kept_bytes(lora) <= kept_bytes(full) + ranks


@pytest.mark.parametrize("kind", KINDS)
def test_a_bf16_base_trains_packed_without_autocast_and_with_it(kind: str) -> None:
    model = adapted(make().to(torch.bfloat16), **KINDS[kind]).train()
    plain = _packed_loss(model, ids())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = _packed_loss(model, ids())
    assert abs(plain.item() - mixed.item()) < 0.05 * abs(plain.item())
    (plain + mixed).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
