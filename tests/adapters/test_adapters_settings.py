"""What an adapter may be, what it adapts, and what is said about it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from glm_train import GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification
from glm_train.adapters.lora import LoraSettings, add_adapter, token_ids
from glm_train.adapters.settings import check_settings
from glm_train.errors import ConfigError
from support.adapted import DECODER
from support.tiny_heads import make


@pytest.mark.parametrize("head", [GlmForCausalLM, GlmForSequenceClassification, GlmForTokenClassification])
def test_every_linear_layer_of_the_decoder_is_adapted_and_no_head(head: type) -> None:
    model = make(head)
    report = add_adapter(model, LoraSettings())
    expected = [
        f"model.layers.{layer}.{part}.{name}"
        for layer in range(2)
        for part, names in (("self_attn", DECODER[:4]), ("mlp", DECODER[4:]))
        for name in names
    ]
    assert list(report.adapted) == expected
    assert report.whole == (() if head is GlmForCausalLM else ("score",))
    assert type(model) is head


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [
        (("q_proj",), ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]),
        (("layers.1.mlp.down_proj",), ["model.layers.1.mlp.down_proj"]),
        (("lm_head",), ["lm_head"]),
        (("mlp.down_proj", "model.layers.0.self_attn.k_proj"), None),
    ],
)
def test_targets_are_matched_as_peft_does(targets: tuple[str, ...], adapted: list[str] | None) -> None:
    report = add_adapter(make(), LoraSettings(r=2, targets=targets))
    wanted = adapted or [
        "model.layers.0.self_attn.k_proj",
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]
    assert list(report.adapted) == wanted


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("gate_proj", "up_proj"), "gate_proj and up_proj are one layer here: gate_up_proj"),
        (("q_porj",), "Did you mean 'q_proj'"),
        (("proj",), "'proj' matches no linear layer"),
        (("q_proj", "embed_tokens"), "'embed_tokens' matches no linear layer"),
        (("norm",), "There are: q_proj, k_proj, v_proj, o_proj, gate_up_proj, down_proj, lm_head"),
        (("score",), "matches no linear layer"),
    ],
)
def test_a_target_that_matches_nothing_is_an_error_with_the_names_that_exist(
    targets: tuple[str, ...], said: str
) -> None:
    model = make()
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        add_adapter(model, LoraSettings(targets=targets))
    assert str(caught.value).endswith("q_proj, k_proj, v_proj, o_proj, gate_up_proj, down_proj, lm_head")
    assert all(p.requires_grad for p in model.parameters())  # nothing was changed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"r": 0}, "adapter.r: must be a whole number from 1 to 65536"),
        ({"r": 10**5000}, "adapter.r: must be a whole number from 1 to 65536"),
        ({"r": True}, "adapter.r"),
        ({"r": 17, "init": "olora"}, "adapter.init=olora takes at most 16 parts of it"),
        ({"alpha": 0}, "adapter.alpha: must be a number above 0 and at most 1000000000"),
        ({"alpha": float("nan")}, "adapter.alpha"),
        ({"alpha": 10**400}, "adapter.alpha"),
        ({"dropout": 1.0}, "adapter.dropout"),
        ({"init": "pisa"}, "Did you mean 'pissa'?"),
        ({"targets": ()}, "adapter.targets: an empty list adapts nothing"),
        ({"targets": "q_proj"}, "expected a list of names"),
        ({"modules_to_save": ("nrom",)}, "adapter.modules_to_save: 'nrom' matches no module with weights"),
        ({"modules_to_save": ("mlp",)}, "matches no module with weights"),
        ({"modules_to_save": ("q_proj",)}, "train it whole or adapt it, not both"),
        ({"new_tokens": (64,)}, "64 is not an id of this model, which has 64 rows"),
        ({"new_tokens": (0,)}, "0 is the padding token"),
        ({"new_tokens": (3, 3)}, "an id comes twice"),
        ({"new_tokens": (3,), "modules_to_save": ("embed_tokens",)}, "leave one of the two out"),
        ({"new_tokens": (3,), "targets": ("lm_head",)}, "lm_head cannot be adapted and have new tokens"),
        ({"targets": ("lm_head",), "dropout": 0.1}, "lm_head takes no dropout"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_changes(
    settings: dict[str, Any], said: str
) -> None:
    model = make()
    with pytest.raises(ConfigError, match=re.escape(said)):
        add_adapter(model, LoraSettings(**settings))
    assert all(p.requires_grad for p in model.parameters())
    assert list(model.state_dict()) == list(make().state_dict())


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_settings(LoraSettings(r=-1, alpha=-1, dropout=2, init="x"))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "adapter.r",
        "adapter.alpha",
        "adapter.dropout",
        "adapter.init",
    ]


def test_a_tied_head_is_not_adapted_and_a_classifier_is_not_named() -> None:
    with pytest.raises(ConfigError, match="lm_head shares its weight with embed_tokens"):
        add_adapter(make(tie_word_embeddings=True), LoraSettings(targets=("lm_head",)))
    with pytest.raises(ConfigError, match="the classification head"):
        add_adapter(make(GlmForTokenClassification), LoraSettings(targets=("q_proj", "score")))


def test_one_adapter_a_model() -> None:
    model = make()
    add_adapter(model, LoraSettings())
    with pytest.raises(ValueError, match="has an adapter already"):
        add_adapter(model, LoraSettings())


def test_the_report_says_what_is_trained() -> None:
    model = make(GlmForTokenClassification, num_labels=3).to(torch.bfloat16)
    report = add_adapter(model, LoraSettings(r=8, alpha=32, rslora=True, dropout=0.1))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # By hand: r (in + out) of each layer, twice, and the head's 16 x 3 + 3.
    sizes = ((16, 32), (16, 16), (16, 16), (32, 16), (16, 48), (24, 16))
    assert trainable == 2 * 8 * sum(i + o for i, o in sizes) + 51
    total = (
        trainable - 51 + sum(p.numel() for p in make(GlmForTokenClassification, num_labels=3).parameters())
    )
    assert report.lines() == [
        "LoRA: r 8, alpha 32 (rsLoRA), scaling 11.31, dropout 0.1, first values default",
        "adapted: q_proj x2, k_proj x2, v_proj x2, o_proj x2, gate_up_proj x2, down_proj x2",
        "trained whole: score",
        f"trainable: {trainable:,} of {total:,} numbers ({100 * trainable / total:.3g} %), in fp32; the frozen base is"
        " bfloat16",
    ]


def test_new_tokens_may_be_spelled() -> None:
    class Tokenizer:
        def token_to_id(self, token: str) -> int | None:
            return {"<a>": 7, "<b>": 3}.get(token)

    assert token_ids(("<a>", 5, "<b>", 3), Tokenizer()) == (3, 5, 7)
    with pytest.raises(ConfigError, match="no token '<c>'"):
        token_ids(("<a>", "<c>"), Tokenizer())
    with pytest.raises(TypeError, match="turn spellings into ids"):
        add_adapter(make(), LoraSettings(new_tokens=("<a>",)))
