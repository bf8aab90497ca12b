"""The examples of the Hugging Face documentation of GLM run with nothing changed but the import line and class names.

The lines below are the documentation's own. They load small random folders under the documentation's names from a hub
on this machine, and give what transformers gives for the same lines, folders and random state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from support.local_hub import local_hub
from support.model_folder import make_model_folder
from support.tiny_tokenizer import make_tokenizer_folder

USAGE = """
>>> from transformers import AutoModelForCausalLM, AutoTokenizer
>>> device = "cuda" # the device to load the model onto

>>> model = AutoModelForCausalLM.from_pretrained("THUDM/glm-4-9b-chat", device_map="auto")
>>> tokenizer = AutoTokenizer.from_pretrained("THUDM/glm-4-9b-chat")

>>> prompt = "Give me a short introduction to large language model."

>>> messages = [{"role": "user", "content": prompt}]

>>> text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

>>> model_inputs = tokenizer([text], return_tensors="pt").to(device)

>>> generated_ids = model.generate(model_inputs.input_ids, max_new_tokens=512, do_sample=True)

>>> generated_ids = [output_ids[len(input_ids):] for input_ids, output_ids in zip(model_inputs.input_ids, generated_ids)]

>>> response = tokenizer.batch_decode(generated_ids, skip_special_tokens=True)[0]
"""  # noqa: E501

FORWARD = """
>>> from transformers import AutoTokenizer, GlmForCausalLM

>>> model = GlmForCausalLM.from_pretrained("google/glm-7b")
>>> tokenizer = AutoTokenizer.from_pretrained("google/glm-7b")

>>> prompt = "What is your favorite condiment?"
>>> inputs = tokenizer(prompt, return_tensors="pt")

>>> # Generate
>>> generate_ids = model.generate(inputs.input_ids, max_length=30)
>>> tokenizer.batch_decode(generate_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)[0]
"""

# Renders a plain chat as glm-4-9b-chat's template does.
TEMPLATE = """[gMASK]<sop>
{%- for message in messages -%}
    {{- '<|' + message.role + '|>\\n' + message.content -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""
RELEASED = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "max_length": 128000}
CLASSES = {"AutoModelForCausalLM": "GlmForCausalLM", "AutoTokenizer": "GlmTokenizer"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of glm-4-9b-chat: its template and its generation_config.json."""
    place = tmp_path_factory.mktemp("documentation")
    tokenizer = make_tokenizer_folder(place / "tokenizer", template=TEMPLATE)
    found = make_model_folder(place / "glm-4-9b-chat", tokenizer)
    stated = json.loads((found / "generation_config.json").read_text())
    assert len(stated["eos_token_id"]) == 3
    (found / "generation_config.json").write_text(json.dumps(stated | RELEASED))
    return found


def run(example: str) -> dict[str, Any]:
    """Every line in turn, each from the same random state; the last one's value is `result`."""
    lines = [line.removeprefix(">>> ") for line in example.splitlines() if line]
    names: dict[str, Any] = {}
    for line in lines:
        torch.manual_seed(7)
        if line.startswith("tokenizer.batch_decode"):
            line = f"result = {line}"
        exec(line, names)
    return names


def ours(example: str) -> str:
    """The example with our import line and class names, and a device that is there."""
    for theirs, name in {"from transformers": "from glm_train", **CLASSES}.items():
        example = example.replace(theirs, name)
    return example if torch.cuda.is_available() else example.replace('"cuda"', '"cpu"')


def theirs(example: str, hub_id: str, folder: Path) -> str:
    # transformers needs a further package for a device map, which a model of one device does without.
    example = example.replace(hub_id, str(folder)).replace(', device_map="auto"', "")
    return example if torch.cuda.is_available() else example.replace('"cuda"', '"cpu"')


@pytest.mark.parametrize(
    ("example", "hub_id"),
    [(USAGE, "THUDM/glm-4-9b-chat"), (FORWARD, "google/glm-7b")],
    ids=["usage", "forward"],
)
def test_the_example_runs_and_gives_what_transformers_gives(
    example: str, hub_id: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with local_hub({hub_id: folder}, tmp_path, monkeypatch):
        found = run(ours(example))
    expected = run(theirs(example, hub_id, folder))
    assert type(found["model"]).__module__.startswith("glm_train.")
    if example is USAGE:
        assert found["text"] == expected["text"]
        assert found["text"].startswith("[gMASK]<sop><|user|>\nGive me")
        assert found["response"] == expected["response"]
        assert found["generated_ids"][0].tolist() == expected["generated_ids"][0].tolist()
        assert 1 <= len(found["generated_ids"][0]) <= 512
    else:
        assert found["result"] == expected["result"]
        assert found["result"].startswith("What is your favorite condiment?")
        assert found["generate_ids"].shape == (1, 30)
