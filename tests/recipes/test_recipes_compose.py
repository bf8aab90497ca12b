"""Every shipped recipe composes, and opens with what it is for, its command and its cost."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from glm_train.cli.main import COMMANDS
from glm_train.config.compose import compose, recipes
from glm_train.config.paths import recipes_dir
from glm_train.config.schema import CHOICES, RunConfig

RECIPES = {
    "quickstart": [],
    "chat_smoke": ["model.path=MODEL_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_chat_full": ["model.path=GLM_4_9B_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_chat_lora": ["model.path=GLM_4_9B_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_chat_qlora": ["model.path=GLM_4_9B_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_0414_chat_lora": ["model.path=GLM_4_9B_0414_FOLDER", "data.train=chat.jsonl"],
    "glm_edge_1_5b_chat_lora": ["model.path=GLM_EDGE_1_5B_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_ner_lora": ["model.path=GLM_4_9B_FOLDER", "data.train=train.conll"],
    "glm4_9b_ner_full_fsdp": ["model.path=GLM_4_9B_FOLDER", "data.train=train.conll"],
    "glm4_9b_sequence_full_fsdp": ["model.path=GLM_4_9B_FOLDER", "data.train=train.csv"],
    "glm4_9b_sequence_lora": ["model.path=GLM_4_9B_FOLDER", "data.train=train.csv"],
    "tiny_chat_lora": ["model.path=demo/tiny-glm", "data.train=demo/chat/train.jsonl"],
    "tiny_chat_full_fsdp": [],
    "tiny_chat_lora_fsdp": [],
    "glm4_9b_chat_full_fsdp": ["model.path=GLM_4_9B_FOLDER", "data.train=chat.jsonl"],
    "glm4_9b_chat_lora_fsdp": ["model.path=GLM_4_9B_FOLDER", "data.train=chat.jsonl"],
    "glm4_32b_0414_chat_lora_fsdp": ["model.path=GLM_4_32B_0414_FOLDER", "data.train=chat.jsonl"],
    "tiny_ner": [],
    "tiny_sequence": [],
}


def header(name: str) -> str:
    text = (recipes_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    return text[: text.index("\ndefaults:")]


def test_the_shipped_recipes_are_these() -> None:
    assert {path.name for path in recipes_dir().iterdir()} == {f"{name}.yaml" for name in RECIPES}
    assert [name for name, _ in recipes()] == sorted(RECIPES)
    assert len(RECIPES) == 19


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_composes_with_the_command_of_its_header(name: str) -> None:
    commands = [
        shlex.split(line) for line in re.findall(r"^# {3}(glm-train .+)$", header(name), re.MULTILINE)
    ]
    assert [command[:3] for command in commands if command[1] == "fit"] == [["glm-train", "fit", name]]
    assert {command[1] for command in commands} <= {command.name for command in COMMANDS}
    overrides = next(command[3:] for command in commands if command[1] == "fit")
    assert overrides == RECIPES[name]
    assert isinstance(compose(name, overrides), RunConfig)


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_says_what_it_costs(name: str) -> None:
    lines = header(name).splitlines()
    assert lines[0].endswith(("?", "."))
    assert all(line.startswith("#") for line in lines)
    for word in ("Hardware:", "emory", "okens per second"):
        assert word in header(name)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_repeats_no_default(name: str) -> None:
    path = recipes_dir() / f"{name}.yaml"
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    bare = compose(name, RECIPES[name])
    for section, values in body.items():
        if section in CHOICES and section not in ("model", "data"):
            default = CHOICES[section][getattr(bare, section).name]()
            # lr: a full fine-tune of GLM-4-9B says the rate it was written for, whatever the default becomes.
            repeated = {key for key, value in values.items() if getattr(default, key) == value} - {"lr"}
            assert not repeated, f"{path.name}: {section}: {repeated}"


def test_the_quickstart_reads_what_the_demo_writes() -> None:
    config = compose("quickstart")
    assert config.model.path == "demo/tiny-glm"
    assert config.data.train == ("demo/chat/train.jsonl",)
    assert config.data.validation == ("demo/chat/validation.jsonl",)
    assert (config.trainer.accelerator, config.trainer.precision) == ("cpu", "fp32")
    assert Path(config.model.path).parts[0] == "demo"
