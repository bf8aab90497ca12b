"""Folders of the original layout load as they are, and compute what the original's code computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from glm_train import GlmForCausalLM, GlmModel
from glm_train.checkpoint.chatglm import to_original
from glm_train.checkpoint.index import read_index
from glm_train.checkpoint.pretrained import GlmForSequenceClassification, GlmForTokenClassification
from glm_train.checkpoint.weights import load_weights, read_tensor
from glm_train.errors import CheckpointError
from glm_train.model import heads
from glm_train.model.config import GlmConfig
from support.chatglm_folder import make_chatglm_folder, original_logits, read_tensors
from support.reference import relative

IDS = (torch.arange(2 * 40).view(2, 40) * 13 + 6) % 97
RELATIVE = 1e-5
VARIANTS: dict[str, dict[str, Any]] = {
    "glm": {},
    "one-shard-a-tensor": {"shards": 30},
    "theta-10000": {"rope_ratio": None},
    "1m": {"rope_ratio": 10000, "num_attention_heads": 8, "multi_query_group_num": 4},
    "every-head-its-own": {"multi_query_group_num": 4},
    "no-bias": {"add_qkv_bias": False, "multi_query_group_num": 1},
    "head-dim": {"kv_channels": 24},
    "glm4": {"sandwich": True, "layernorm_epsilon": 1e-5},
    "glm4-shards": {"sandwich": True, "shards": 4, "add_qkv_bias": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_originals(tmp_path: Path, variant: str) -> None:
    folder = make_chatglm_folder(tmp_path / "m", **VARIANTS[variant])
    model = GlmForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        logits = model(IDS).logits
    assert relative(logits, original_logits(folder, IDS)) < RELATIVE
    assert model.config.model_type == ("glm4" if "glm4" in variant else "glm")


def test_the_rotary_base_matters_here(tmp_path: Path) -> None:
    """So that the comparison above would see a lost rope_ratio."""
    folder = make_chatglm_folder(tmp_path / "m")
    lost = GlmForCausalLM.from_pretrained(folder, rope_theta=1e4)
    with torch.no_grad():
        assert relative(lost(IDS).logits, original_logits(folder, IDS)) > 0.01


def test_rows_and_names_are_where_they_belong(tmp_path: Path) -> None:
    folder = make_chatglm_folder(tmp_path / "m", shards=3)
    stored = read_tensors(folder)
    found = {name: read_tensor(tensor) for name, tensor in read_index(folder).tensors.items()}
    weight, bias = (
        stored[f"transformer.encoder.layers.1.self_attention.query_key_value.{k}"] for k in ("weight", "bias")
    )
    attention = "model.layers.1.self_attn."
    for part, (start, stop) in {"q": (0, 64), "k": (64, 96), "v": (96, 128)}.items():
        assert torch.equal(found[f"{attention}{part}_proj.weight"], weight[start:stop])
        assert torch.equal(found[f"{attention}{part}_proj.bias"], bias[start:stop])
    same = {
        "model.embed_tokens.weight": "embedding.word_embeddings.weight",
        "model.norm.weight": "encoder.final_layernorm.weight",
        "lm_head.weight": "output_layer.weight",
        "model.layers.2.self_attn.o_proj.weight": "encoder.layers.2.self_attention.dense.weight",
        "model.layers.2.mlp.gate_up_proj.weight": "encoder.layers.2.mlp.dense_h_to_4h.weight",
        "model.layers.2.mlp.down_proj.weight": "encoder.layers.2.mlp.dense_4h_to_h.weight",
        "model.layers.2.input_layernorm.weight": "encoder.layers.2.input_layernorm.weight",
        "model.layers.2.post_attention_layernorm.weight": "encoder.layers.2.post_attention_layernorm.weight",
    }
    for ours, theirs in same.items():
        assert torch.equal(found[ours], stored[f"transformer.{theirs}"])
    with torch.device("meta"):
        assert list(found) == list(heads.GlmForCausalLM(GlmConfig.from_pretrained(folder)).state_dict())


def test_a_module_with_memory_is_filled_in_place(tmp_path: Path) -> None:
    folder = make_chatglm_folder(tmp_path / "m", dtype=torch.bfloat16)
    model = heads.GlmForCausalLM(GlmConfig.from_pretrained(folder))
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    load_weights(model, folder)
    assert places == {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    query = read_tensors(folder)["transformer.encoder.layers.0.self_attention.query_key_value.weight"][:64]
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, query.float())


def test_the_body_loads_without_the_head(tmp_path: Path) -> None:
    folder = make_chatglm_folder(tmp_path / "m")
    body, whole = GlmModel.from_pretrained(folder), GlmForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(whole.lm_head(body(IDS).last_hidden_state), whole(IDS).logits)


def test_what_is_saved_is_hugging_faces(tmp_path: Path) -> None:
    GlmForCausalLM.from_pretrained(make_chatglm_folder(tmp_path / "m")).save_pretrained(tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))
    assert (config["model_type"], config["architectures"]) == ("glm", ["GlmForCausalLM"])
    assert "rope_ratio" not in config
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        assert relative(theirs(IDS).logits, original_logits(tmp_path / "m", IDS)) < RELATIVE


class TestClassifiers:
    def test_a_zero_bias_fits_the_sequence_head(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m", labels=3)
        model = GlmForSequenceClassification.from_pretrained(folder)
        assert model.config.id2label == {0: "label-0", 1: "label-1", 2: "label-2"}
        with torch.no_grad():
            assert relative(model(IDS).logits, original_logits(folder, IDS)) < RELATIVE

    def test_another_bias_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m", labels=3, classifier_bias=0.25)
        with pytest.raises(CheckpointError, match=r"has a bias \(classifier_head\.bias, up to 0\.25\)"):
            GlmForSequenceClassification.from_pretrained(folder)

    def test_the_token_head_has_a_place_for_it(self, tmp_path: Path) -> None:
        kind = ["ChatGLMForTokenClassification"]
        folder = make_chatglm_folder(tmp_path / "m", labels=3, classifier_bias=0.25, architectures=kind)
        model = GlmForTokenClassification.from_pretrained(folder)
        with torch.no_grad():
            last = model(IDS).logits[:, -1]
        assert relative(last, original_logits(folder, IDS)) < RELATIVE

    def test_its_language_model_is_still_there(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m", labels=3, classifier_bias=0.25)
        GlmForCausalLM.from_pretrained(folder)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("transformer.vision.patch_embedding.proj.weight", "image model"),
            ("transformer.prefix_encoder.embedding.weight", "P-tuning"),
            ("transformer.layers.0.attention.dense.weight", "first ChatGLM-6B"),
            ("transformer.encoder.layers.0.mlp.dense_h_to_4h.bias", "no place"),
            ("transformer.encoder.layers.00.input_layernorm.weight", "no place"),
            ("model.layers.0.input_layernorm.weight", "no place"),
            ("transformer.h.0.attn.c_attn.weight", "no place"),
        ],
    )
    def test_a_tensor_without_a_place_is_named(self, tmp_path: Path, name: str, words: str) -> None:
        folder = make_chatglm_folder(tmp_path / "m", extra_tensors={name: torch.zeros(48)})
        with pytest.raises(CheckpointError) as caught:
            GlmForCausalLM.from_pretrained(folder)
        assert name in str(caught.value)
        assert words in str(caught.value)

    @pytest.mark.parametrize("shape", [(129, 48), (64, 48), (3, 48), ()])
    def test_rows_that_cannot_be_divided(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        name = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
        folder = make_chatglm_folder(tmp_path / "m", extra_tensors={name: torch.zeros(shape)})
        with pytest.raises(CheckpointError, match=r"query_key_value\.weight .* cannot be divided"):
            GlmForCausalLM.from_pretrained(folder)

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("transformer.encoder.layers.1.self_attention.dense.weight", "no dense.weight beside it"),
            ("transformer.encoder.layers.1.self_attention.query_key_value.bias", "q_proj.bias"),
            ("transformer.encoder.layers.2.mlp.dense_4h_to_h.weight", "layers.2.mlp.down_proj.weight"),
            ("transformer.output_layer.weight", "lm_head.weight"),
        ],
    )
    def test_a_missing_tensor_is_named(self, tmp_path: Path, name: str, words: str) -> None:
        folder = make_chatglm_folder(tmp_path / "m")
        tensors = {key: value for key, value in read_tensors(folder).items() if key != name}
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=words):
            GlmForCausalLM.from_pretrained(folder)

    def test_groups_that_contradict_the_rows(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, "multi_query_group_num": 4}))
        with pytest.raises(CheckpointError, match="k_proj"):
            GlmForCausalLM.from_pretrained(folder)

    def test_pickles_are_not_read(self, tmp_path: Path) -> None:
        folder = make_chatglm_folder(tmp_path / "m")
        (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00001.bin")
        with pytest.raises(CheckpointError, match="only as pickles"):
            GlmForCausalLM.from_pretrained(folder)


class TestJoining:
    """What has no place in the original, on the way there."""

    def test_one_of_three_is_not_enough(self, tmp_path: Path) -> None:
        tensors = dict(read_index(make_chatglm_folder(tmp_path / "m")).tensors)
        del tensors["model.layers.0.self_attn.k_proj.weight"]
        with pytest.raises(CheckpointError, match=r"k_proj\.weight, .* cannot be joined"):
            to_original(tmp_path, tensors, tied=False)

    @pytest.mark.parametrize(
        ("name", "words"),
        [("model.layers.0.self_attn.q_norm.weight", "q_norm"), ("model.layers.7.moe.weight", "layers.7")],
    )
    def test_a_tensor_without_a_place_is_named(self, tmp_path: Path, name: str, words: str) -> None:
        tensors = dict(read_index(make_chatglm_folder(tmp_path / "m")).tensors)
        tensors[name] = tensors["model.norm.weight"]
        with pytest.raises(CheckpointError, match=words):
            to_original(tmp_path, tensors, tied=False)

    def test_a_model_without_a_head_has_no_original_form(self, tmp_path: Path) -> None:
        tensors = dict(read_index(make_chatglm_folder(tmp_path / "m")).tensors)
        del tensors["lm_head.weight"]
        with pytest.raises(CheckpointError, match="without a head"):
            to_original(tmp_path, tensors, tied=False)
