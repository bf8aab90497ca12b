"""What a wrong configuration is told: every fault at once, each with its place and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.config.compose import compose
from glm_train.errors import ConfigError


def told(recipe: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(recipe, list(overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        (
            "optim.lrr=1",
            ["unknown key 'optim.lrr'", "(optim.lrr=1 on the command line)", "Did you mean 'lr'?"],
        ),
        ("lr=1", ["unknown key 'lr'", "Did you mean 'optim.lr'?"]),
        ("sede=1", ["unknown key 'sede'", "Did you mean 'seed'"]),
        ("optim._target_=os.system", ["unknown key 'optim._target_'"]),
        ("hydra.run.dir=x", ["unknown key 'hydra'"]),
        ("adapter.r=8", ["adapter.r is read by adapter=lora", "not by adapter=none"]),
        ("schedule.decay_ratio=0.1", ["is read by schedule=wsd, not by schedule=cosine"]),
        ("logger.project=p", ["is read by logger=wandb, not by logger=csv"]),
        ("adapter=lorra", ["adapter=lorra", "adapter can be", "lora"]),
        ("schedule=cosin", ["schedule can be cosine, linear, constant or wsd", "Did you mean 'cosine'?"]),
        ("schedule.name=nope", ["schedule can be cosine, linear, constant or wsd"]),
        ("schedule=null", ["schedule=null: this version", "schedule can be cosine"]),
        ("parallel=dpp", ["parallel can be single, ddp, fsdp or hsdp"]),
        (
            "data.train_on=asistant",
            ["expected assistant, last_assistant or all, got 'asistant'", "'assistant'"],
        ),
        ("optim.lr=ten", ["optim.lr: expected a number, got the text 'ten'"]),
        ("optim.lr=true", ["expected a number, got true"]),
        ("optim.lr=null", ["expected a number, got null"]),
        ("optim.lr=nan", ["optim.lr: must be a finite number, got nan"]),
        ("optim.lr=0", ["optim.lr: must be above 0, got 0"]),
        ("optim.lr=-1e-4", ["must be above 0, got -0.0001"]),
        ("optim.lr.x=1", ["optim.lr: expected a number, got a mapping with the keys x"]),
        ("optim.betas=[0.9]", ["expected a list of 2 numbers, got [0.9]"]),
        ("optim.betas=[0.9,1]", ["optim.betas: must be from 0 up to, not including, 1, got 1"]),
        ("optim.clip_norm=0", ["optim.clip_norm: must be above 0"]),
        ("seed=1.0", ["seed: expected a whole number, got 1.0"]),
        ("seed=true", ["seed: expected a whole number, got true"]),
        ("seed='1'", ["seed: expected a whole number, got the text '1'"]),
        ("seed=-1", ["seed: must be from 0 to 4294967295, got -1"]),
        ("data.packing=1", ["data.packing: expected true or false, got 1"]),
        ("data.max_length=0", ["data.max_length: must be at least 1"]),
        ("data.workers=-1", ["data.workers: must be from 0 to 1024"]),
        ("data.train=[]", ["data.train: must be at least one file"]),
        ("data.train=", ["data.train: must be a path, not an empty text"]),
        ("data.train=[a,~nouser/b]", ["data.train: ~nouser/b: ~nouser has no home folder"]),
        ("model.path=~nouser/m", ["model.path: ~nouser/m: ~nouser has no home folder"]),
        ("output_dir=~nouser/r", ["output_dir: ~nouser/r: ~nouser has no home folder"]),
        ("resume=~nouser/r", ["resume: ~nouser/r: ~nouser has no home folder"]),
        ("data.train=a\0b", ["data.train: must be a path that a file can have", "NUL"]),
        ("output_dir=a\0b", ["output_dir: must be a path that a file can have", "NUL"]),
        ("resume=a\0b", ["resume: must be a path that a file can have", "NUL"]),
        ("model.path='a\ud800'", ["model.path: must be a path that a file can have"]),
        (
            "data.train=a.jsonl:0",
            ["data.train: must be a name with a weight above 0 and at most 1000", "'a.jsonl:0'"],
        ),
        (
            "data.train=[a.jsonl:2,b.jsonl:-1]",
            ["data.train: must be a name with a weight above 0", "'b.jsonl:-1'"],
        ),
        ("data.train=a.jsonl:inf", ["data.train: must be a name with a weight above 0", "'a.jsonl:inf'"]),
        ("data.validation=v.jsonl:2", ["data.validation: must be a name without a weight", "'v.jsonl:2'"]),
        ("data.on_error=warn", ["data.on_error: expected error or skip, got 'warn'"]),
        ("data.stop_token=eos", ["data.stop_token: expected role or endoftext, got 'eos'"]),
        ("data.format=openai", ["data.format: openai is refused", "are named messages here"]),
        ("data.format=csv", ["data.format: csv is refused", "a file's suffix says how it is written"]),
        ("data.format=shargpt", ["expected auto, messages, sharegpt, alpaca or", "Did you mean 'sharegpt'?"]),
        ("data.train=null", ["data.train: expected a path or a list of paths, got null"]),
        ("data.train={a: 1}", ["expected a path or a list of paths, got a mapping with the keys a"]),
        ("data.validation_fraction=1", ["must be above 0 and below 1"]),
        ("schedule.warmup_ratio=1.5", ["must be from 0 to 1, got 1.5"]),
        ("model.path=???", ["model.path is missing: give model.path=..."]),
        ("trainer.devices=0", ["trainer.devices: must be at least 1"]),
        ("trainer.devices=2", ["trainer.devices asks for 2 processes", "add parallel=fsdp"]),
        ("trainer.num_nodes=2", ["trainer.num_nodes asks for 2 processes", "parallel=single is one"]),
        ("trainer.precision=16-mixed", ["16-mixed is refused", "largest fp16 number", "use bf16-mixed"]),
        ("trainer.precision=16", ["16 is refused", "use bf16-mixed"]),
        ("trainer.precision=bf16-true", ["bf16-true is refused", "rounded away", "use bf16-mixed"]),
        ("trainer.precision=fp23", ["expected fp32 or bf16-mixed, got 'fp23'", "Did you mean 'fp32'?"]),
        ("model.dtype=bf16", ["model.dtype=bf16", "use bf16-mixed"]),
        ("model.bidirectional=true", ["model.bidirectional=true", "for classification"]),
        (
            "task=token_classification",
            [
                "reads data=tokens",
                "use data=tokens, or task=chat (task=token_classification on the command line)",
            ],
        ),
        ("data=sequence", ["task=chat reads data=chat", "data=sequence is chosen"]),
        ("run_name=''", ["run_name: must be something, not an empty text"]),
        ("run_name=[a]", ["run_name: expected a text or null, got ['a']"]),
        ("batch=3", ["batch: expected settings such as batch.key, got 3"]),
        ("~optim", ["optim: a group cannot be taken away; choose adamw"]),
        ("foo", ["`foo`", "not of the form key=value"]),
        ("optim.lr=1e-3,1e-4", ["holds several values", "add -m", "optim.lr=[a,b]"]),
        ("seed=range(0,3)", ["holds several values", "add -m"]),
        ("optim@x=adamw", ["packages (@) are not read"]),
        ("data.train=[训练.jsonl,{]", ["cannot be read", "'data.train=\"...\"'"]),
        ("seed=" + "[" * 400 + "]" * 400, ["`seed=[[[", "nested too deep"]),
        ("=3", ["not of the form key=value"]),
        ("schedule=[wsd]", ["schedule can be cosine"]),
        ("run_name=${oc.env:HOME}", ["run_name", "only plain references", "(run_name=${oc.env:HOME} on the"]),
        ("data.train=['${oc.env:HOME}']", ["data.train", "only plain references"]),
        ("run_name='${oc.env:${seed}}'", ["run_name", "only plain references"]),
        ("run_name='\\\\${seed}'", ["run_name", "only plain references"]),
        ("run_name=${nope.x}", ["run_name: ${nope.x} cannot be resolved", "'nope.x' not found"]),
        ("run_name=${run_name}", ["run_name: ${run_name} cannot be resolved: recursive interpolation"]),
        ("logger.api_key=hunter2", ["unknown key 'logger.api_key'", "logger.api_key=***"]),
        ("trainer.max_epochs=null", ["the run has no end: set trainer.max_steps or trainer.max_epochs"]),
        ("schedule.warmup_steps=5", ["two ways to say one thing", "set schedule.warmup_ratio=0"]),
        ("data.validation_fraction=0.1", ["set one to null"]),
        ("data.packing=false", ["batch.tokens is read only with data.packing=true", "set batch.tokens=null"]),
        ("batch.documents=4", ["batch.tokens and batch.documents are two ways"]),
        ("data.max_length=8192", ["batch.tokens (1024) is less than data.max_length (8192)"]),
    ],
)
def test_one_fault(argument: str, parts: list[str]) -> None:
    message = told("quickstart", argument)
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["data.validation=null", "trainer.validate_every=5"], "trainer.validate_every has no data"),
        (
            ["~schedule.warmup_ratio", "schedule.warmup_steps=9", "trainer.max_steps=5"],
            "schedule.warmup_steps (9) is more than trainer.max_steps (5)",
        ),
        (
            ["schedule=wsd", "schedule.warmup_ratio=0.5", "schedule.decay_ratio=0.75"],
            "add up to more than 1",
        ),
        (
            ["model.path=???", "run_name=${model.path}"],
            "run_name: ${model.path} refers to a key that has no value",
        ),
    ],
)
def test_keys_that_contradict_each_other(arguments: list[str], part: str) -> None:
    assert part in told("quickstart", *arguments)


@pytest.mark.parametrize(
    ("recipe", "arguments", "place"),
    [
        ("tiny_sequence", ["data=tokens"], "data=tokens on the command line"),
        ("tiny_sequence", ["data.train=x", "data.name=tokens"], "data.name=tokens on the command line"),
        ("tiny_sequence", ["task=chat"], "task=chat on the command line"),
        ("tiny_sequence", ["task=chat", "data=tokens"], "data=tokens and task=chat on the command line"),
        ("glm4_9b_chat_qlora", ["parallel=fsdp"], "parallel=fsdp on the command line"),
        ("tiny_chat_full_fsdp", ["parallel=single"], "parallel=single on the command line"),
        ("tiny_sequence", ["data.packing=false"], "data.packing=false on the command line"),
        ("tiny_sequence", ["data.max_length=1024"], "data.max_length=1024 on the command line"),
        ("tiny_sequence", ["~data.validation"], "~data.validation on the command line"),
        ("quickstart", ["schedule.warmup_steps=3"], "schedule.warmup_steps=3 on the command line"),
        (
            "quickstart",
            ["data.validation=[a,b]", "data.validation_fraction=0.1"],
            "data.validation_fraction=0.1 and data.validation=[a,b] on the command line",
        ),
    ],
)
def test_a_conflict_names_the_words_of_the_command_line_that_made_it(
    recipe: str, arguments: list[str], place: str
) -> None:
    assert f"({place})." in told(recipe, *arguments)


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        (
            "trainer.devices=1000000",
            "trainer.devices=1000000 would start as many processes; no machine has more",
        ),
        ("data.workers=100000", "data.workers: must be from 0 to 1024, got 100000"),
        ("trainer.max_steps=99999999999999999999", "trainer.max_steps: must be at most 2147483647, got 9999"),
        ("data.max_length=2147483648", "data.max_length: must be at most 2147483647"),
        ("schedule.warmup_steps=2147483648", "schedule.warmup_steps: must be at most 2147483647"),
    ],
)
def test_numbers_that_nobody_means_are_refused_before_processes_start(argument: str, part: str) -> None:
    assert part in told("quickstart", "parallel=ddp", argument)


def test_a_long_argument_is_cut_in_the_message() -> None:
    assert len(told("quickstart", "seed=" + "9" * 5000)) < 1000
    assert len(told("quickstart", "data.train=" + "9" * 5000, "optim.lr=x" + "9" * 5000)) < 1500


def test_a_conflict_inside_a_recipe_names_the_line_of_the_choice(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults:\n  - tiny_sequence\n  - override data: tokens\n  - _self_\nseed: 1\n")
    assert told(str(recipe)).endswith(f"use data=sequence, or task=token_classification ({recipe}:3).")
    recipe.write_text("defaults:\n  - tiny_sequence\n  - _self_\ndata:\n  name: tokens\n")
    assert told(str(recipe)).endswith(f"({recipe}:5).")


@pytest.mark.parametrize(
    ("argument", "part"),
    [
        ("adapter.r=0", "adapter.r: must be from 1 to 65536, got 0"),
        ("adapter.r=65537", "adapter.r: must be from 1 to 65536, got 65537"),
        ("adapter.alpha=0", "adapter.alpha: must be above 0 and at most 1000000000, got 0"),
        ("adapter.alpha=2e9", "adapter.alpha: must be above 0 and at most 1000000000, got 2"),
    ],
)
def test_the_limits_of_an_adapter_are_told(argument: str, part: str) -> None:
    assert part in told("quickstart", "adapter=lora", argument)


def test_all_faults_are_listed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "defaults: [quickstart, {override optim: sgd}, {override loger: csv}, nope]\n"
        "data:\n"
        "  max_lenght: 12\n"
        "  train: ${oc.env:HOME}\n"
        "trainer:\n"
        "  max_steps: ten\n"
        "  _target_: os.system\n"
        "optim.lr: 3\n"
        "hydra: {run: {dir: x}}\n",
    )
    lines = told("./mine.yaml", "seed=-1", "foo", "model.path=???").splitlines()
    assert lines[0] == "12 faults in the configuration of './mine.yaml':"
    assert len(lines) == 13
    for start, place in [
        ("optim=sgd: this version has no such choice; optim can be adamw", "(mine.yaml:1)"),
        ("defaults: 'loger' is not a group. Did you mean 'logger'?", "(mine.yaml:1)"),
        ("defaults: there is no recipe 'nope' to build on", "(mine.yaml:1)"),
        ("data.train: '${oc.env:HOME}' is refused", "(mine.yaml:4)"),
        ("hydra: Hydra's own settings are not read", "(mine.yaml:9)"),
        ("`foo` on the command line", "key=value"),
        ("unknown key 'data.max_lenght'", "(mine.yaml:3). Did you mean 'max_length'?"),
        ("unknown key 'trainer._target_'", "(mine.yaml:7)"),
        ("'optim.lr': in a file, keys are nested; write `optim:` and under it `lr:`", "(mine.yaml:8)"),
        ("trainer.max_steps: expected a whole number or null, got the text 'ten'", "(mine.yaml:6)"),
        ("seed: must be from 0", "(seed=-1 on the command line)"),
        ("model.path is missing", "or set it in mine.yaml"),
    ]:
        assert any(line.startswith(start) and place in line for line in lines), start


def test_a_key_of_another_choice_names_its_line_and_the_cure(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("defaults: [quickstart]\nschedule:\n  min_lr_ratio: 0.5\n")
    message = told(str(recipe), "schedule=constant")
    assert "schedule.min_lr_ratio is read by schedule=cosine, schedule=linear or schedule=wsd" in message
    assert f"({recipe}:3). Take it out, on the command line with ~schedule.min_lr_ratio." in message


def test_missing_values_of_a_shipped_recipe_are_asked_for_on_the_command_line() -> None:
    lines = told("chat_smoke").splitlines()
    assert lines[1:] == [
        "model.path is missing: give model.path=... on the command line.",
        "data.train is missing: give data.train=... on the command line.",
    ]


def test_a_fault_in_the_group_that_was_chosen_wrongly_is_not_told_twice() -> None:
    assert "adapter.r" not in told("quickstart", "adapter=lorra", "adapter.r=8")
