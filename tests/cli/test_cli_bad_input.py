"""Every mistake a user can make with `fit` and `generate`: one clear message, exit code 2, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from glm_train.cli.main import main
from support.commands import ran

GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.fixture
def fit(
    tmp_path: Path,
    model_folder: Path,
    chat_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Run `fit chat_smoke` with changed settings; assert that it is refused cleanly; give the message."""
    monkeypatch.chdir(tmp_path)

    def refused(
        *overrides: str, recipe: str = "chat_smoke", model: Path = model_folder, data: Path = chat_file
    ) -> str:
        before = sorted(str(p) for p in tmp_path.rglob("*"))
        given = [f"model.path={model}", f"data.train={data}", "trainer.accelerator=cpu"]
        _, error = ran(capsys, "fit", recipe, *given, *overrides, code=2)
        assert error.startswith("glm-train: error: ")
        assert sorted(str(p) for p in tmp_path.rglob("*")) == before
        return error

    return refused


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ["no such file"]),
        ("", ["empty"]),
        ("\n\n", ["blank lines"]),
        (GOOD + "{oops\n", [":2", "JSON"]),
        (GOOD + "[1]\n", [":2", "object"]),
        (
            '{"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            [":1", "usr", "user"],
        ),
        (GOOD + '{"messages": [{"role": "user", "content": "a"}]}', [":2", "assistant"]),
        (
            '{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}]}',
            [":1", "text"],
        ),
        ('{"messages": []}', [":1", "messages"]),
        ('{"mesages": [1]}', [":1", "messages"]),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": false}]}',
            ["train"],
        ),
    ],
)
def test_data_that_cannot_be_trained_on(
    fit: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
    content: str | None,
    expected: list[str],
) -> None:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    message = fit(data=path)
    assert str(path) in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optim.lrr=1", ["optim.lrr", "lr", "command line"]),
        ("optim.lr=fast", ["optim.lr", "fast"]),
        ("trainer.precision=16-mixed", ["trainer.precision", "nan", "bf16-mixed"]),
        ("trainer.devices=2", ["trainer.devices"]),
        ("optim.lr=1e-3,1e-4", ["-m"]),
        ("adapter=lorra", ["adapter"]),
        ("trainer.accelerator=gpu", ["gpu"]),
        ("model.attention=varlen", ["varlen"]),
        ("resume=elsewhere", ["elsewhere", "no such folder"]),
        ("output_dir=/dev/null", ["/dev/null"]),
        ("output_dir=/proc/run", ["output_dir=/proc/run", "cannot be written"]),
    ],
)
def test_settings_that_cannot_run(fit: Callable[..., str], override: str, expected: list[str]) -> None:
    message = fit(override)
    for part in expected:
        assert part in message


def test_an_unknown_recipe_names_the_nearest(fit: Callable[..., str]) -> None:
    assert "quickstart" in fit(recipe="quickstrt")


def test_typos_in_a_recipe_file_are_all_listed(fit: Callable[..., str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("optim:\n  lrr: 1\ntrainer:\n  max_stepz: 3\n  precision: fp16\n", encoding="utf-8")
    message = fit(recipe=str(mine))
    for part in ("lrr", "max_stepz", "precision", "mine.yaml:2", "mine.yaml:4", "mine.yaml:5"):
        assert part in message


def damage(kind: str, folder: Path) -> None:
    """Make a model folder wrong in one way."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    tensors = load_file(weights)
    if kind == "no config":
        config.unlink()
    elif kind == "missing tensor":
        del tensors["model.norm.weight"]
        save_file(tensors, weights)
    elif kind == "extra tensor":
        save_file({**tensors, "model.extra": tensors["model.norm.weight"]}, weights)
    elif kind == "wrong shape":
        save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"][:3].copy()}, weights)
    elif kind == "shard outside":
        shutil.move(weights, folder.parent / "outside.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "../outside.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif kind == "small vocabulary":
        values = json.loads(config.read_text())
        config.write_text(json.dumps({**values, "vocab_size": 300, "pad_token_id": 1, "eos_token_id": [1]}))
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("no config", "config.json"),
        ("missing tensor", "model.norm.weight"),
        ("extra tensor", "model.extra"),
        ("wrong shape", "model.norm.weight"),
        ("shard outside", "../outside.safetensors"),
        ("small vocabulary", "do not belong together"),
        ("no tokenizer", "tokenizer.json"),
        ("truncated", "model.safetensors"),
    ],
)
def test_model_folders_that_cannot_be_loaded(
    fit: Callable[..., str],
    model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    expected: str,
) -> None:
    folder = tmp_path_factory.mktemp("models") / "broken"
    shutil.copytree(model_folder, folder)
    damage(kind, folder)
    assert expected in fit(model=folder)


def test_a_model_that_is_not_there(fit: Callable[..., str], tmp_path: Path) -> None:
    assert "no such folder" in fit(model=tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--top-p", "0.9"], "--temperature"),
        (["--temperature", "0"], "from 0.01 to 100"),
        (["--temperature", "nan"], "from 0.01 to 100"),
        (["--seed", "1"], "--temperature"),
        (["--temperature", "1", "--seed", "-1"], "--seed -1"),
        (["--prompt", " "], "--prompt is empty"),
        (["--temperature", "1", "--top-p", "3"], "at most 1"),
        (["--max-new-tokens", "0"], "at least 1"),
    ],
)
def test_generate_refuses_settings_without_effect(
    model_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["generate", str(model_folder), "--prompt", "a", *arguments]) == 2
    assert expected in capsys.readouterr().err


def test_generate_answers_each_prompt(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--prompt", "Hello", "--prompt", "你好", "--max-new-tokens", 3)
    printed, _ = ran(capsys, "generate", model_folder, *asked)
    assert "> Hello" in printed
    assert "> 你好" in printed
    assert printed.count("tokens]") == 2
