"""An exported folder in transformers: the same ids, the same logits, the same greedy text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train import GlmConfig, GlmTokenizer
from glm_train.checkpoint.pretrained import GlmForCausalLM
from glm_train.text.chat import Conversation, Message, encode_prompt
from support.exported import SETTINGS, TASKS, logits, make_base, make_run
from support.reference import relative
from support.tolerances import LOGITS

Exports = Callable[..., str]
AUTO = {
    "chat": "AutoModelForCausalLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
IDS = (torch.arange(40).view(2, 20) * 13 + 6) % 256


def transformers_model(folder: Path, task: str, **options: Any) -> Any:
    import transformers

    kind = getattr(transformers, AUTO[task])
    return kind.from_pretrained(folder, dtype=torch.float32, **options).eval()


@pytest.mark.parametrize("settings", [None, SETTINGS], ids=["full", "lora"])
@pytest.mark.parametrize("model_type", ["glm", "glm4"])
@pytest.mark.parametrize("task", TASKS)
def test_the_logits_are_the_runs(
    tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports, task: str, model_type: str, settings: Any
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, model_type=model_type)
    run, model = make_run(tmp_path / "run", base, task, adapter=settings)
    output = exports(run, tmp_path / "out")
    assert ("changed by the adapter" in output) == (settings is not None)
    theirs = transformers_model(tmp_path / "out", task)
    expected = "Glm4For" if model_type == "glm4" else "GlmFor"
    assert type(theirs).__name__.startswith(expected)
    assert relative(logits(theirs, IDS), logits(model, IDS)) < LOGITS
    assert theirs.config.id2label == {**theirs.config.id2label, **model.config.id2label}


@pytest.mark.parametrize("settings", [None, SETTINGS], ids=["full", "lora"])
def test_a_chat_is_rendered_answered_and_stopped_alike(
    tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports, settings: Any
) -> None:
    from transformers import AutoTokenizer

    base = make_base(tmp_path / "base", tiny_tokenizer_folder, model_type="glm4")
    run, model = make_run(tmp_path / "run", base, "chat", adapter=settings)
    exports(run, tmp_path / "out")
    tokenizer, ours = AutoTokenizer.from_pretrained(tmp_path / "out"), GlmTokenizer.from_pretrained(base)
    said = "What is the weather in 北京?"
    theirs = tokenizer.apply_chat_template(
        [{"role": "user", "content": said}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    prompt = encode_prompt(ours, Conversation((Message("user", said),), None))
    assert theirs["input_ids"][0].tolist() == prompt
    answer = transformers_model(tmp_path / "out", "chat").generate(
        **theirs, max_new_tokens=40, do_sample=False
    )
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)
    assert tokenizer.decode(answer[0]) == ours.decode(expected[0])
    assert answer.shape[1] > len(prompt)


def test_the_generation_stops_at_every_role_and_the_template_is_the_models_own(
    tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports
) -> None:
    special = GlmTokenizer.from_pretrained(tiny_tokenizer_folder).special_tokens
    base = make_base(tmp_path / "base", tiny_tokenizer_folder, eos_token_id=special["<|endoftext|>"])
    template = (base / "chat_template.jinja").read_bytes() + b"{# mine #}\n"
    (base / "chat_template.jinja").write_bytes(template)
    for name, settings in (("full", None), ("lora", SETTINGS)):
        run, _ = make_run(tmp_path / name, base, "chat", adapter=settings)
        exports(run, tmp_path / f"{name}-out")
        stops = json.loads((tmp_path / f"{name}-out" / "generation_config.json").read_text())["eos_token_id"]
        assert {special[t] for t in ("<|endoftext|>", "<|user|>", "<|observation|>")} <= set(stops)
        assert (tmp_path / f"{name}-out" / "chat_template.jinja").read_bytes() == template


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_bidirectional_model_reads_both_ways_in_transformers_too(
    tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports, attention: str
) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder)
    run, model = make_run(
        tmp_path / "run", base, "token_classification", adapter=SETTINGS, bidirectional=True
    )
    output = exports(run, tmp_path / "out")
    assert "warning: the model reads both ways" in output
    theirs = transformers_model(tmp_path / "out", "token_classification", attn_implementation=attention)
    assert relative(logits(theirs, IDS), logits(model, IDS)) < LOGITS
    assert json.loads((tmp_path / "out" / "config.json").read_text())["is_causal"] is False
    assert GlmConfig.from_pretrained(tmp_path / "out").bidirectional


def test_peft_puts_an_exported_adapter_on_the_base(
    tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports
) -> None:
    from peft import PeftModel

    base = make_base(tmp_path / "base", tiny_tokenizer_folder)
    run, model = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    exports(run, tmp_path / "out", "--adapter")
    theirs = PeftModel.from_pretrained(transformers_model(base, "chat"), tmp_path / "out")
    assert relative(logits(theirs, IDS), logits(model, IDS)) < LOGITS
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    assert GlmTokenizer.from_pretrained(tmp_path / "out").encode("hi 你") == GlmTokenizer.from_pretrained(
        base
    ).encode("hi 你")


def test_shards_are_read_by_both(tmp_path: Path, tiny_tokenizer_folder: Path, exports: Exports) -> None:
    base = make_base(tmp_path / "base", tiny_tokenizer_folder)
    run, model = make_run(tmp_path / "run", base, "chat", adapter=SETTINGS)
    exports(run, tmp_path / "out", "--max-shard-size", "60kB")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) >= 4
    assert relative(logits(transformers_model(tmp_path / "out", "chat"), IDS), logits(model, IDS)) < LOGITS
    assert (
        relative(logits(GlmForCausalLM.from_pretrained(tmp_path / "out"), IDS), logits(model, IDS)) < LOGITS
    )
