"""The schema and `conf/` describe the same vocabulary, and every key is explained."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_args, get_type_hints

import pytest
import yaml

from glm_train.config import schema
from glm_train.config.compose import compose
from glm_train.config.data_settings import DATA_OF
from glm_train.config.paths import conf_dir
from glm_train.config.schema import CHOICES, SECTIONS, RunConfig
from glm_train.data.chat_formats import CHAT_FORMATS
from glm_train.data.prepare import ON_ERROR
from glm_train.text.chat import Truncation
from glm_train.text.chat_labels import StopToken, TrainOn

CHOICE_FILES = sorted(conf_dir().glob("*/*.yaml"))


def test_every_choice_has_a_file_and_every_file_a_choice() -> None:
    assert [(path.parent.name, path.stem) for path in CHOICE_FILES] == sorted(
        (group, choice) for group, choices in CHOICES.items() for choice in choices
    )
    assert len(CHOICE_FILES) == 24
    assert [path.name for path in conf_dir().glob("*.yaml")] == ["base.yaml"]


@pytest.mark.parametrize("path", CHOICE_FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_choice_file_says_its_name_and_no_defaults(path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert yaml.safe_load(text) == {"name": path.stem}


@pytest.mark.parametrize("path", CHOICE_FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_a_choice_composes_to_its_dataclass(path) -> None:
    group, choice = path.parent.name, path.stem
    pairs = {("task", task) for task in DATA_OF} | {("data", data) for data in DATA_OF.values()}
    partner = {v: k for k, v in DATA_OF.items()} | DATA_OF
    other = [f"{'data' if group == 'task' else 'task'}={partner[choice]}"] if (group, choice) in pairs else []
    picks = [f"{group}={choice}", *(pick for pick in other if (group, choice) != ("task", "chat"))]
    config = compose("chat_smoke", [*picks, "model.path=m", "data.train=t", "schedule.warmup_steps=1"])
    section = getattr(config, group)
    assert type(section) is CHOICES[group][choice]
    assert section.name == choice


def test_the_groups_and_sections_are_the_fields_of_the_run() -> None:
    fields = {field.name for field in dataclasses.fields(RunConfig)}
    assert set(CHOICES) | set(SECTIONS) <= fields
    assert fields - set(CHOICES) - set(SECTIONS) == {"seed", "resume", "output_dir", "run_name"}


def test_every_key_has_a_comment() -> None:
    """`project` alone is named after what it is, and a name is explained by the class."""
    choices = [owner for group in CHOICES.values() for owner in group.values()]
    classes = {base for owner in (RunConfig, *SECTIONS.values(), *choices) for base in owner.__mro__[:-1]}
    clear = {"name", "project", *CHOICES, *SECTIONS}
    explained = 0
    for owner in classes:
        lines = inspect.getsource(owner).splitlines()
        own = [name for name, hint in inspect.get_annotations(owner).items() if "ClassVar" not in hint]
        for name in set(own) - clear:
            (line,) = [line for line in lines if line.startswith(f"    {name}: ")]
            assert re.search(r"  # \w.{5,}", line), f"{owner.__name__}.{name}"
            explained += 1
    assert explained >= 35


def test_the_choices_of_chat_data_are_those_of_its_code() -> None:
    hints = get_type_hints(schema.ChatData)
    assert get_args(hints["format"]) == ("auto", *CHAT_FORMATS)
    assert get_args(hints["on_error"]) == ON_ERROR
    options = {"train_on": TrainOn, "truncation": Truncation, "stop_token": StopToken}
    for name, known in options.items():
        assert set(get_args(hints[name])) == set(get_args(known)), name


def test_a_config_is_frozen() -> None:
    config = compose("quickstart")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 2  # type: ignore[misc]


@pytest.mark.parametrize("choice", CHOICES["schedule"])
def test_every_schedule_answers_the_same_questions(choice: str) -> None:
    chosen = compose("chat_smoke", ["model.path=m", "data.train=t", f"schedule={choice}"]).schedule
    assert 0 <= chosen.min_lr_ratio <= 1
    assert chosen.decay_ratio == (0.1 if choice == "wsd" else 0.0)
    assert chosen.resolve_warmup(100) == 2


def test_the_schema_imports_nothing_heavy() -> None:
    assert not {"torch", "lightning", "hydra", "omegaconf"} & set(vars(schema))
