"""Every head's folder into every class: what is loaded, new or refused; and transformers on both sides."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import (
    GlmForCausalLM,
    GlmForSequenceClassification,
    GlmForTokenClassification,
    GlmModel,
)
from glm_train.checkpoint.weights import load_weights
from glm_train.errors import CheckpointError
from support.tiny_heads import TINY, edit_config, make, saved

IDS = torch.tensor([[5, 9, 33, 7, 60, 12, 3], [8, 8, 41, 3, 0, 0, 0]])
LABELS = {0: "negative", 1: "positive", 2: "neither"}
CLASSIFIERS = (GlmForSequenceClassification, GlmForTokenClassification)

both_types = pytest.mark.parametrize("model_type", ["glm", "glm4"])
both_heads = pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda cls: cls.__name__)
one_file_or_shards = pytest.mark.parametrize("size", ["1GB", "5KB"])


def body(model: Any) -> dict[str, torch.Tensor]:
    return (model if isinstance(model, GlmModel) else model.model).state_dict()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


class TestWithTransformers:
    @both_types
    @both_heads
    @one_file_or_shards
    def test_it_reads_our_classifier(
        self, tmp_path: Path, model_type: str, classifier: Any, size: str
    ) -> None:
        import transformers

        ours = make(classifier, model_type=model_type, id2label=LABELS)
        ours.save_pretrained(tmp_path, max_shard_size=size)
        files = len(list(tmp_path.glob("*.safetensors")))
        assert files == 1 if size == "1GB" else files > 5
        auto = getattr(transformers, classifier.__name__.replace("Glm", "AutoModel", 1))
        theirs, info = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]  # noqa: PT018
        expected = classifier.__name__.replace("Glm", "Glm4" if model_type == "glm4" else "Glm", 1)
        assert type(theirs).__name__ == expected
        assert theirs.config.id2label == LABELS
        with torch.no_grad():
            assert torch.allclose(theirs.eval()(IDS).logits, logits(ours), atol=1e-5)

    @both_types
    @both_heads
    @one_file_or_shards
    def test_we_read_its_classifier(
        self, tmp_path: Path, model_type: str, classifier: Any, size: str
    ) -> None:
        import transformers

        kind = "Glm4" if model_type == "glm4" else "Glm"
        config = getattr(transformers, f"{kind}Config")(**TINY, id2label=LABELS)
        torch.manual_seed(1)
        theirs = getattr(transformers, classifier.__name__.replace("Glm", kind, 1))(config).eval()
        theirs.save_pretrained(tmp_path, max_shard_size=size)
        ours = classifier.from_pretrained(tmp_path)
        assert ours.config.id2label == LABELS
        assert ours.new_parameters == []
        with torch.no_grad():
            assert torch.allclose(theirs(IDS).logits, logits(ours), atol=1e-5)


class TestNewHead:
    @both_types
    @both_heads
    @pytest.mark.parametrize("source", [GlmModel, GlmForCausalLM])
    @pytest.mark.parametrize("tied", [False, True])
    def test_the_body_is_loaded_and_the_head_is_new(
        self, tmp_path: Path, model_type: str, classifier: Any, source: Any, tied: bool
    ) -> None:
        stored = saved(tmp_path, source, model_type=model_type, tie_word_embeddings=tied)
        model = classifier.from_pretrained(tmp_path, num_labels=3)
        assert all(torch.equal(tensor, body(stored)[name]) for name, tensor in body(model).items())
        bias = ["score.bias"] if classifier is GlmForTokenClassification else []
        assert model.new_parameters == ["score.weight", *bias]
        assert model.score.weight.shape == (3, 16)
        assert 0.1 < model.score.weight.std() < 0.3  # initializer_range
        assert not bias or model.score.bias.eq(0).all()
        assert logits(model).shape[-1] == 3

    @both_heads
    def test_is_said_once_with_its_size(self, tmp_path: Path, classifier: Any, caplog: Any) -> None:
        saved(tmp_path)
        with caplog.at_level(logging.WARNING, logger="glm_train"):
            classifier.from_pretrained(tmp_path, num_labels=3)
        assert len(caplog.messages) == 1
        assert "score.weight [3, 16]" in caplog.messages[0]
        assert "train the model before you use it" in caplog.messages[0]
        assert str(tmp_path) in caplog.messages[0]

    def test_is_seen_without_any_logging_set_up(self, tmp_path: Path) -> None:
        import subprocess
        import sys

        saved(tmp_path)
        code = f"import glm_train; glm_train.GlmForSequenceClassification.from_pretrained({str(tmp_path)!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.count("score.weight [2, 16] is new") == 1
        assert done.stdout == ""

    @both_heads
    def test_one_seed_gives_one_head_in_every_dtype(self, tmp_path: Path, classifier: Any) -> None:
        saved(tmp_path)
        heads = []
        for dtype in (torch.float32, torch.float32, torch.bfloat16):
            torch.manual_seed(7)
            heads.append(classifier.from_pretrained(tmp_path, dtype=dtype).score.weight)
        assert torch.equal(heads[0], heads[1])
        assert heads[2].dtype == torch.bfloat16
        assert torch.equal(heads[2], heads[0].bfloat16())
        assert not torch.equal(classifier.from_pretrained(tmp_path).score.weight, heads[0])

    def test_lives_where_and_as_the_body(self, tmp_path: Path) -> None:
        make().bfloat16().save_pretrained(tmp_path)
        model = GlmForTokenClassification.from_pretrained(tmp_path)
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        assert {p.device for p in model.parameters()} == {torch.device("cpu")}
        assert all(p.requires_grad for p in model.parameters())

    @both_heads
    def test_saved_and_loaded_it_is_new_no_more(self, tmp_path: Path, classifier: Any, caplog: Any) -> None:
        saved(tmp_path / "causal")
        first = classifier.from_pretrained(tmp_path / "causal", id2label=LABELS)
        first.save_pretrained(tmp_path / "classifier")
        caplog.clear()
        second = classifier.from_pretrained(tmp_path / "classifier")
        assert second.new_parameters == []
        assert not caplog.messages
        assert second.config.id2label == LABELS
        assert torch.equal(logits(first), logits(second))

    def test_not_made_where_the_folder_should_hold_one(self, tmp_path: Path) -> None:
        saved(tmp_path)
        edit_config(tmp_path, architectures=["Glm4ForTokenClassification"])
        with pytest.raises(CheckpointError, match=r"hold no score\.weight: the folder is not complete"):
            GlmForTokenClassification.from_pretrained(tmp_path)

    def test_a_head_with_memory_is_left_as_it_is(self, tmp_path: Path) -> None:
        stored = saved(tmp_path)
        model = make(GlmForSequenceClassification)
        score = model.score.weight.detach().clone()
        assert load_weights(model, tmp_path) == ["score.weight"]
        assert torch.equal(model.score.weight, score)
        assert torch.equal(model.model.norm.weight, stored.model.norm.weight)


class TestOtherWayRound:
    @both_types
    @both_heads
    def test_bare_model_of_a_classifier(self, tmp_path: Path, model_type: str, classifier: Any) -> None:
        stored = saved(tmp_path, classifier, model_type=model_type)
        model = GlmModel.from_pretrained(tmp_path)
        assert model.new_parameters == []
        assert all(torch.equal(tensor, body(stored)[name]) for name, tensor in body(model).items())

    @both_heads
    def test_causal_lm_of_a_tied_classifier(self, tmp_path: Path, classifier: Any) -> None:
        stored = saved(tmp_path, classifier, tie_word_embeddings=True)
        model = GlmForCausalLM.from_pretrained(tmp_path)
        assert torch.equal(model.lm_head.weight, stored.model.embed_tokens.weight)
        assert logits(model).shape == (2, 7, 64)

    @both_heads
    def test_causal_lm_of_an_untied_classifier(self, tmp_path: Path, classifier: Any) -> None:
        saved(tmp_path, classifier)
        with pytest.raises(CheckpointError) as caught:
            GlmForCausalLM.from_pretrained(tmp_path)
        assert f"{tmp_path}: the weights do not fit GlmForCausalLM" in str(caught.value)
        assert "missing in the folder (1): lm_head.weight" in str(caught.value)
        assert f"holds a {classifier.__name__}" in str(caught.value)
        assert f"load it as {classifier.__name__}" in str(caught.value)

    @pytest.mark.parametrize(
        ("held", "asked"), [CLASSIFIERS, CLASSIFIERS[::-1]], ids=["to tokens", "to sequences"]
    )
    def test_one_classifier_of_the_other(self, tmp_path: Path, held: Any, asked: Any) -> None:
        saved(tmp_path, held)
        with pytest.raises(
            CheckpointError, match=f"{tmp_path}: .* is a {held.__name__} .* load it as {held.__name__}"
        ):
            asked.from_pretrained(tmp_path)
        edit_config(tmp_path, architectures=None)  # then the bias tells them apart
        with pytest.raises(CheckpointError, match=r"score\.bias"):
            asked.from_pretrained(tmp_path)


class TestLabels:
    @both_heads
    @pytest.mark.parametrize(
        "asked", [{"num_labels": 5}, {"id2label": {0: "a", 1: "b", 2: "c", 3: "d", 4: "e"}}]
    )
    def test_another_number_than_the_folders_head(self, tmp_path: Path, classifier: Any, asked: dict) -> None:
        saved(tmp_path, classifier, id2label=LABELS)
        with pytest.raises(CheckpointError) as caught:
            classifier.from_pretrained(tmp_path, **asked)
        assert "head has 3 labels, 5 are asked for" in str(caught.value)
        assert "leave both as in the folder's config.json" in str(caught.value)

    @both_heads
    def test_same_number_under_other_names(self, tmp_path: Path, classifier: Any) -> None:
        stored = saved(tmp_path, classifier, id2label=LABELS)
        model = classifier.from_pretrained(tmp_path, id2label={0: "-", 1: "+", 2: "0"})
        assert model.config.label2id == {"-": 0, "+": 1, "0": 2}
        assert torch.equal(model.score.weight, stored.score.weight)

    def test_a_new_head_on_a_classifier_goes_through_its_body(self, tmp_path: Path) -> None:
        """The way that the refusal names."""
        saved(tmp_path / "a", GlmForSequenceClassification, id2label=LABELS)
        GlmModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
        model = GlmForSequenceClassification.from_pretrained(tmp_path / "b", num_labels=5)
        assert model.score.weight.shape == (5, 16)
        assert model.new_parameters == ["score.weight"]
