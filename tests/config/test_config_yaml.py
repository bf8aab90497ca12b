"""`config.yaml`: read back, it gives the same run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.config.compose import compose, recipes
from glm_train.config.schema import (
    AdamW,
    ChatData,
    GlmModelSettings,
    RunConfig,
    TensorBoardLogger,
    TrainerSettings,
    WandbLogger,
    WsdSchedule,
)
from glm_train.config.yaml_nodes import load_mapping
from glm_train.config.yaml_text import to_dict, to_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
POSITIVE = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


def read_back(folder: Path, config: RunConfig) -> RunConfig:
    path = folder / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    return compose(str(path))


@pytest.mark.parametrize("recipe", [name for name, _ in recipes()])
def test_recipes_survive(recipe: str, tmp_path: Path) -> None:
    config = compose(recipe, ["model.path=m", "data.train=[a.jsonl,b.jsonl]", "logger=wandb"])
    assert read_back(tmp_path, config) == config


@settings(max_examples=100, deadline=None)
@given(
    path=TEXT,
    train=st.lists(TEXT, min_size=1),
    lr=POSITIVE,
    eps=POSITIVE,
    name=TEXT,
    seed=st.integers(0, 2**32 - 1),
)
def test_any_values_are_read_back_to_the_letter(path, train, lr, eps, name, seed) -> None:
    config = RunConfig(
        model=GlmModelSettings(path=path),
        data=ChatData(train=tuple(train)),
        optim=AdamW(lr=lr, eps=eps, clip_norm=None, betas=(0.0, 0.5)),
        schedule=WsdSchedule(decay_ratio=1.0),
        trainer=TrainerSettings(max_steps=1),
        logger=WandbLogger(project=name, entity=None),
        run_name=name,
    )
    read = load_mapping(to_yaml(config))
    assert read is not None
    assert read.values == to_dict(config)


def test_a_config_file_takes_overrides_and_choices_like_any_recipe(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(compose("quickstart")), encoding="utf-8")
    config = compose(str(path), ["optim.lr=1", "schedule=linear", "logger=tensorboard"])
    assert (config.optim.lr, config.schedule.name) == (1.0, "linear")
    assert config.logger == TensorBoardLogger()


def test_the_text_is_deterministic_and_names_come_first() -> None:
    text = to_yaml(compose("quickstart", ["run_name=训练", "optim.lr=1e-5"]))
    assert text == to_yaml(compose("quickstart", ["optim.lr=1e-5", "run_name=训练"]))
    assert text.startswith("model:\n  name: glm\n  path: demo/tiny-glm\n")
    assert "schedule:\n  name: cosine\n" in text
    assert "  lr: 1.0e-05\n" in text
    assert "run_name: 训练\n" in text


@pytest.mark.parametrize("output_dir", [None, "runs/训练"])
def test_a_run_of_its_own_from_the_config_file_of_another(output_dir: str | None, tmp_path: Path) -> None:
    config = compose("quickstart", [f"output_dir={output_dir or 'null'}"])
    assert config.output_dir == output_dir
    assert f"output_dir: {output_dir or 'null'}\n" in to_yaml(config)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert compose(str(path)).output_dir == output_dir
    assert compose(str(path), ["output_dir=null"]).output_dir is None


def test_other_yaml_readers_see_plain_values() -> None:
    config = compose("quickstart")
    assert yaml.safe_load(to_yaml(config)) == to_dict(config)
