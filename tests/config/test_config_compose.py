"""What a right configuration becomes: precedence, choices, references, paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.config.compose import compose, recipe_label
from glm_train.config.schema import AdamW, ConstantSchedule, LinearSchedule, WandbLogger, WsdSchedule

NEEDED = ["model.path=m", "data.train=t.jsonl", "trainer.max_steps=5"]


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_come_from_the_dataclasses(tmp_path: Path) -> None:
    config = compose(write(tmp_path, "seed: 1\n"), NEEDED)
    assert config.optim == AdamW()
    assert config.seed == 1
    assert config.data.train == ("t.jsonl",)
    assert config.trainer.max_steps == 5


def test_command_line_wins_over_recipe_and_recipe_over_what_it_builds_on(tmp_path: Path) -> None:
    recipe = write(tmp_path, "defaults: [quickstart, _self_]\noptim: {lr: 0.5, eps: 0.25}\n")
    config = compose(recipe, ["optim.lr=0.125"])
    assert (config.optim.lr, config.optim.eps) == (0.125, 0.25)
    assert config.model.path == "demo/tiny-glm"  # from quickstart


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert compose("quickstart", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    "text",
    [
        "defaults: [base, {override schedule: wsd}, _self_]\n",
        "defaults: [{override schedule: wsd}]\n",  # base and _self_ go without saying
        "schedule: {name: wsd}\n",
    ],
)
def test_a_recipe_chooses_in_its_defaults_or_by_name(tmp_path: Path, text: str) -> None:
    assert isinstance(compose(write(tmp_path, text), NEEDED).schedule, WsdSchedule)


@pytest.mark.parametrize("choice", ["schedule=linear", "schedule.name=linear", "+schedule=linear"])
def test_a_choice_on_the_command_line_wins_over_a_name_in_the_file(tmp_path: Path, choice: str) -> None:
    recipe = write(tmp_path, "schedule: {name: wsd, min_lr_ratio: 0.5}\n")
    assert compose(recipe, [*NEEDED, choice]).schedule == LinearSchedule(min_lr_ratio=0.5)


def test_an_outer_recipe_chooses_over_the_one_it_builds_on(tmp_path: Path) -> None:
    write(tmp_path, "schedule: {name: wsd}\nseed: 3\n", "inner.yaml")
    recipe = write(tmp_path, "defaults: [inner, {override schedule: constant}, _self_]\n")
    config = compose(recipe, NEEDED)
    assert isinstance(config.schedule, ConstantSchedule)
    assert config.seed == 3


def test_a_recipe_builds_on_a_path_relative_to_itself(tmp_path: Path) -> None:
    write(tmp_path, "seed: 7\n", "shared/common.yaml")
    recipe = write(tmp_path, "defaults: [../shared/common]\n", "recipes/mine.yaml")
    assert compose(recipe, NEEDED).seed == 7


def test_two_parents_that_share_one_are_laid_over_in_order(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\nrun_name: common\n", "common.yaml")
    write(tmp_path, "defaults: [common]\nseed: 2\n", "left.yaml")
    write(tmp_path, "defaults: [common]\nresume: auto\n", "right.yaml")
    config = compose(write(tmp_path, "defaults: [left, right]\n"), NEEDED)
    assert (config.seed, config.run_name, config.resume) == (2, "common", "auto")


@pytest.mark.parametrize("name", ["with space.yaml", "a,b=c.yaml", "训练.yml", "x.y.yaml", "[1].yaml"])
def test_any_file_name_works(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write(tmp_path / "a folder, really", "seed: 9\n", name)
    assert compose(recipe, NEEDED).seed == 9
    monkeypatch.chdir(Path(recipe).parent)
    assert compose(f"./{name}", NEEDED).seed == 9


def test_a_section_with_everything_commented_out_is_empty(tmp_path: Path) -> None:
    assert compose(write(tmp_path, "optim:\n#  lr: 1\nbatch:\n"), NEEDED).optim == AdamW()


def test_references_reach_values_that_no_file_writes(tmp_path: Path) -> None:
    recipe = write(tmp_path, "batch: {tokens: '${data.max_length}'}\nrun_name: run-${seed}\n")
    config = compose(recipe, [*NEEDED, "data.validation=${data.train}", "seed=4"])
    assert config.batch.tokens == config.data.max_length
    assert config.data.validation == ("t.jsonl",)
    assert config.run_name == "run-4"


@pytest.mark.parametrize(
    ("argument", "section", "key", "value"),
    [
        ("optim.lr=1e-4", "optim", "lr", 1e-4),
        ("optim.lr='1e-4'", "optim", "lr", 1e-4),
        ("optim.lr=1", "optim", "lr", 1.0),
        ("++optim.lr=0.5", "optim", "lr", 0.5),
        ("optim={lr: 0.5}", "optim", "lr", 0.5),
        ("optim.betas=[0,0.5]", "optim", "betas", (0.0, 0.5)),
        ("optim.clip_norm=null", "optim", "clip_norm", None),
        ("model.rope_theta=5e6", "model", "rope_theta", 5e6),
        ("data.train=[a.jsonl,b c.jsonl]", "data", "train", ("a.jsonl", "b c.jsonl")),
        ("data.train=/数据/训练(1).jsonl", "data", "train", ("/数据/训练(1).jsonl",)),
        ("data.train=[训练.jsonl, 验证.jsonl]", "data", "train", ("训练.jsonl", "验证.jsonl")),
        ("data.train=[a.jsonl:2, b.parquet:0.5]", "data", "train", ("a.jsonl:2", "b.parquet:0.5")),
        ("data.train=owner/name:main/train_sft:2", "data", "train", ("owner/name:main/train_sft:2",)),
        ("data.train='a,b.jsonl'", "data", "train", ("a,b.jsonl",)),
        ("data.train=007", "data", "train", ("007",)),
        ("model.path=/models/glm=4", "model", "path", "/models/glm=4"),
        ("model.path=12e3", "model", "path", "12e3"),
        ("data.packing=true", "data", "packing", True),
    ],
)
def test_values_on_the_command_line(argument: str, section: str, key: str, value: object) -> None:
    got = getattr(getattr(compose("quickstart", [argument]), section), key)
    assert got == value
    assert type(got) is type(value)


def test_texts_that_look_like_numbers_keep_their_letters() -> None:
    assert compose("quickstart", ["run_name=0042"]).run_name == "0042"
    assert compose("quickstart", ["run_name=1_0"]).run_name == "1_0"


def test_floats_without_a_point_in_a_file(tmp_path: Path) -> None:
    assert compose(write(tmp_path, "optim: {lr: 1e-4, eps: 1e-6}\n"), NEEDED).optim.lr == 1e-4


def test_tilde_takes_a_value_back_to_its_default() -> None:
    assert compose("quickstart", ["~schedule.warmup_ratio"]).schedule.warmup_ratio == 0.0


def test_home_is_expanded_in_paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = compose("quickstart", ["model.path=~/glm", "data.train=[~/a.jsonl]", 'run_name="~/x"'])
    assert config.model.path == "/home/someone/glm"
    assert config.data.train == ("/home/someone/a.jsonl",)
    assert config.run_name == "~/x"


def test_other_paths_stay_relative_to_the_current_directory(tmp_path: Path) -> None:
    recipe = write(tmp_path, "data: {train: sub/t.jsonl}\n")
    assert compose(recipe, ["model.path=m", "trainer.max_steps=1"]).data.train == ("sub/t.jsonl",)


def test_logger_settings() -> None:
    config = compose("quickstart", ["logger=wandb", "logger.project=p", "logger.mode=offline"])
    assert config.logger == WandbLogger(project="p", mode="offline")


@pytest.mark.parametrize(("arguments", "steps"), [(["schedule.warmup_ratio=0.1"], 20), ([], 0)])
def test_warm_up_in_steps(arguments: list[str], steps: int) -> None:
    schedule = compose("chat_smoke", [*NEEDED, "schedule.warmup_steps=null", *arguments]).schedule
    assert schedule.resolve_warmup(200) == steps


def test_composing_leaves_no_global_state() -> None:
    from hydra.core.global_hydra import GlobalHydra

    compose("quickstart")
    assert not GlobalHydra.instance().is_initialized()


def test_recipe_label() -> None:
    assert recipe_label("quickstart") == "quickstart"
