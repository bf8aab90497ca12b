"""`glm-train convert`: the same model in the other layout, byte for byte there and back, or nothing at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmConfig, GlmForCausalLM, GlmTokenizer
from glm_train.checkpoint.pretrained import GlmForSequenceClassification, GlmForTokenClassification
from glm_train.cli.main import main
from support.chatglm_folder import make_chatglm_folder, original_logits, read_tensors, write_shards
from support.converted import CONVERTIBLE, files, hugging_face_folder, same_tensors
from support.reference import relative
from support.tiny_models import VARIANTS

Converts = Callable[..., str]
IDS = (torch.arange(40).view(1, 40) * 13 + 6) % 97


class TestRoundTrips:
    @pytest.mark.parametrize("variant", CONVERTIBLE)
    def test_hugging_face_and_back_byte_for_byte(
        self, tmp_path: Path, converts: Converts, variant: str
    ) -> None:
        source = hugging_face_folder(tmp_path / "a", **VARIANTS[variant])
        converts(source, tmp_path / "b")
        converts(tmp_path / "b", tmp_path / "c")
        assert json.loads((tmp_path / "b" / "config.json").read_text())["model_type"] == "chatglm"
        assert files(tmp_path / "c") == files(source)

    def test_shards_too(self, tmp_path: Path, converts: Converts) -> None:
        source = hugging_face_folder(tmp_path / "a", shard_bytes=60_000, num_hidden_layers=11)
        limit = ("--max-shard-gb", "0.00006")
        converts(source, tmp_path / "b", *limit)
        index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())["weight_map"]
        name = "transformer.encoder.layers.{}.input_layernorm.weight"
        order = [index[name.format(n)] for n in range(11)]
        assert order == sorted(order)
        assert len(set(index.values())) >= 10
        converts(tmp_path / "b", tmp_path / "c", *limit)
        assert files(tmp_path / "c") == files(source)
        converts(tmp_path / "c", tmp_path / "d", *limit)
        assert files(tmp_path / "d") == files(tmp_path / "b")

    @pytest.mark.parametrize(
        "settings",
        [
            {"shards": 5, "dtype": torch.bfloat16},
            {"sandwich": True},
            {"num_attention_heads": 8, "multi_query_group_num": 4, "rope_ratio": 10000},
            {"add_qkv_bias": False, "kv_channels": 24, "some_key": {"of": ["theirs"]}},
            {"labels": 3},
            {"labels": 3, "classifier_bias": 0.5, "architectures": ["ChatGLMForTokenClassification"]},
        ],
    )
    def test_the_original_and_back(
        self, tmp_path: Path, converts: Converts, settings: dict[str, Any]
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a", **settings)
        converts(source, tmp_path / "b")
        converts(tmp_path / "b", tmp_path / "c")
        assert same_tensors(tmp_path / "c", source)
        before, after = (json.loads((tmp_path / n / "config.json").read_text()) for n in "ac")
        dropped = {"auto_map", "transformers_version", "_name_or_path", "attn_implementation"}
        norms = {"post_self_attn_layernorm", "post_mlp_layernorm"}  # said by the weights alone before
        assert {k: v for k, v in before.items() if k not in dropped} == {
            k: v for k, v in after.items() if k not in norms | dropped
        }

    def test_an_original_without_its_table_comes_back_without(
        self, tmp_path: Path, converts: Converts
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        tensors = read_tensors(source)
        del tensors["transformer.rotary_pos_emb.inv_freq"]
        write_shards(source, tensors, 1)
        converts(source, tmp_path / "b")
        converts(tmp_path / "b", tmp_path / "c")
        assert same_tensors(tmp_path / "c", source)

    @pytest.mark.parametrize("kind", [GlmForSequenceClassification, GlmForTokenClassification])
    def test_classifiers(self, tmp_path: Path, converts: Converts, kind: Any) -> None:
        labels = {0: "no", 1: "yes", 2: "perhaps"}
        source = hugging_face_folder(tmp_path / "a", kind, id2label=labels)
        converts(source, tmp_path / "b")
        assert "classifier_head.bias" in read_tensors(tmp_path / "b")
        converts(tmp_path / "b", tmp_path / "c")
        assert files(tmp_path / "c") == files(source)


class TestTheResult:
    def test_transformers_computes_what_the_original_does(self, tmp_path: Path, converts: Converts) -> None:
        from transformers import AutoModelForCausalLM

        source = make_chatglm_folder(tmp_path / "a", sandwich=True)
        converts(source, tmp_path / "b")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype=torch.float32)
        assert type(theirs).__name__ == "Glm4ForCausalLM"
        with torch.no_grad():
            assert relative(theirs(IDS).logits, original_logits(source, IDS)) < 1e-5

    def test_the_original_computes_what_ours_does(self, tmp_path: Path, converts: Converts) -> None:
        source = hugging_face_folder(tmp_path / "a", rope_theta=5e6, num_key_value_heads=1)
        converts(source, tmp_path / "b")
        with torch.no_grad():
            ours = GlmForCausalLM.from_pretrained(source)(IDS).logits
        assert relative(ours, original_logits(tmp_path / "b", IDS)) < 1e-5

    def test_all_keys_of_the_original_are_there(self, tmp_path: Path, converts: Converts) -> None:
        converts(hugging_face_folder(tmp_path / "a", tie_word_embeddings=True), tmp_path / "b")
        expected = read_tensors(make_chatglm_folder(tmp_path / "c"))
        found = read_tensors(tmp_path / "b")
        assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
        table = "transformer.rotary_pos_emb.inv_freq"
        assert torch.equal(found[table], expected[table])

    def test_what_is_printed(self, tmp_path: Path, converts: Converts) -> None:
        output = converts(make_chatglm_folder(tmp_path / "a"), tmp_path / "b")
        for words in (
            "Hugging Face layout",
            "36 tensors, 0.29 MB in 1 file, float32",
            "theta 5,000,000",
            "36 tensors: equal bit for bit",
            "largest difference of the logits for 24 tokens: 0;",
            "same next token at 24 of 24 positions",
            "MB at most",
        ):
            assert words in output.replace("GB at most", "MB at most")
        assert "rope_ratio 500" in converts(tmp_path / "b", tmp_path / "c")

    def test_dtype_and_theta(self, tmp_path: Path, converts: Converts) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        converts(source, tmp_path / "b", "--dtype", "bfloat16", "--rope-theta", "1e8")
        config = GlmConfig.from_pretrained(tmp_path / "b")
        assert (config.dtype, config.rope_theta) == ("bfloat16", 1e8)
        before, after = read_tensors(source), read_tensors(tmp_path / "b")
        assert {t.dtype for t in after.values()} == {torch.bfloat16}
        weight = before["transformer.output_layer.weight"].bfloat16()
        assert torch.equal(after["lm_head.weight"], weight)
        converts(tmp_path / "b", tmp_path / "c", "--dtype", "float32")
        assert json.loads((tmp_path / "c" / "config.json").read_text())["rope_ratio"] == 10000

    def test_a_layout_may_stay_where_something_changes(self, tmp_path: Path, converts: Converts) -> None:
        source = hugging_face_folder(tmp_path / "a")
        converts(source, tmp_path / "b", "--to", "hf", "--rope-theta", "5e6")
        assert same_tensors(source, tmp_path / "b")
        assert GlmConfig.from_pretrained(tmp_path / "b").rope_theta == 5e6

    def test_a_lost_base_is_told_once(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = make_chatglm_folder(tmp_path / "a", rope_ratio=1, seq_length=131072)
        assert main(["convert", str(source), str(tmp_path / "b")]) == 0
        error = capsys.readouterr().err
        assert error.count("warning") == 1
        assert "rope_theta is 10000" in error
        assert "--rope-theta" in error
        assert main(["convert", str(source), str(tmp_path / "c"), "--rope-theta", "5e6"]) == 0
        assert capsys.readouterr().err == ""

    def test_the_tokenizer_comes_along(self, tmp_path: Path, model_folder: Path, converts: Converts) -> None:
        output = converts(model_folder, tmp_path / "b")
        assert "tokenizer.json" in output
        for name in (
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "generation_config.json",
        ):
            assert (tmp_path / "b" / name).read_bytes() == (model_folder / name).read_bytes()
        assert len(GlmTokenizer.from_pretrained(tmp_path / "b")) == 414

    def test_a_tokenizer_json_is_made_where_there_was_none(self, tmp_path: Path, converts: Converts) -> None:
        source = make_chatglm_folder(tmp_path / "a", padded_vocab_size=280)
        ranks = (base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
        (source / "tokenizer.model").write_bytes(b"".join(ranks))
        code = {"auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]}}
        (source / "tokenizer_config.json").write_text(
            json.dumps({**code, "tokenizer_class": "ChatGLM4Tokenizer"})
        )
        output = converts(source, tmp_path / "b")
        assert "made      tokenizer.json, tokenizer_config.json" in output
        assert (tmp_path / "b" / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
        assert "auto_map" not in (tmp_path / "b" / "tokenizer_config.json").read_text()
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(tmp_path / "b")("hi [gMASK]", add_special_tokens=False)
        assert theirs["input_ids"] == GlmTokenizer.from_pretrained(source).encode("hi [gMASK]", False)

    def test_a_tokenizer_that_cannot_be_read_is_copied(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        (source / "tokenizer.model").write_text("no ranks")
        assert main(["convert", str(source), str(tmp_path / "b")]) == 0
        assert "no tokenizer.json could be made" in capsys.readouterr().err
        assert (tmp_path / "b" / "tokenizer.model").read_text() == "no ranks"

    def test_code_does_not_come_along(self, tmp_path: Path, converts: Converts) -> None:
        source = make_chatglm_folder(tmp_path / "a")
        for name in ("modeling_chatglm.py", "pytorch_model.bin", "README.md", "LICENSE"):
            (source / name).write_text("x")
        converts(source, tmp_path / "b")
        assert sorted(files(tmp_path / "b")) == ["LICENSE", "config.json", "model.safetensors"]

    def test_an_empty_folder_may_be_filled(self, tmp_path: Path, converts: Converts) -> None:
        (tmp_path / "b").mkdir()
        converts(make_chatglm_folder(tmp_path / "a"), tmp_path / "b")
        GlmForCausalLM.from_pretrained(tmp_path / "b")
