"""The front door: help, unknown words, errors, exit codes, and what is imported on the way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from glm_train import __version__
from glm_train.cli import main as main_module
from glm_train.cli.main import COMMANDS, Command, main
from glm_train.config.compose import compose
from glm_train.errors import CheckFailed, ConfigError


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glm_train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A command `fake` with an option and overrides; what it is given lands in the list."""
    seen: list[list[str]] = []
    module = types.ModuleType("fake_command")

    def add_parser(subparsers) -> None:
        parser = subparsers.add_parser("fake")
        parser.add_argument("-m", action="store_true")
        parser.add_argument("recipe")
        parser.add_argument("overrides", nargs="*", default=[])

    def command(args) -> int:
        seen.append([args.recipe, *args.overrides, *(["-m"] if args.m else [])])
        match args.recipe:
            case "config":
                raise ConfigError("2 faults:\none\ntwo")
            case "check":
                raise CheckFailed("no")
            case "ctrl-c":
                raise KeyboardInterrupt
            case "bug":
                raise ZeroDivisionError
            case "exit":
                sys.exit(143)
        return 0

    module.add_parser, module.run = add_parser, command  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", module)
    monkeypatch.setattr(main_module, "COMMANDS", (*COMMANDS, Command("fake", "for tests", "fake_command")))
    return seen


def test_no_arguments_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command.name} " in out
        assert command.help in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"glm-train {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["fitt", "quickstart"], "there is no command 'fitt'. Did you mean 'fit'?"),
        (["quickstart"], "there is no command 'quickstart'. The commands are: demo, fit,"),
        (["--nope"], "there is no option --nope"),
        (["show", "quickstart", "--lr", "3"], "there is no option --lr. Settings are written key=value"),
        (["recipes", "extra"], "too many arguments: extra"),
        (
            ["show"],
            "error: the recipe is missing: glm-train show RECIPE [key=value ...]. `glm-train recipes`",
        ),
        (["fit"], "error: the recipe is missing: glm-train fit RECIPE [key=value ...]. `glm-train recipes`"),
        (["fit", "-m"], "error: the recipe is missing"),
        (["fit", "--nope"], "error: the recipe is missing"),
        (["demo", "--seed", "x", "d"], "expected a whole number"),
    ],
)
def test_a_wrong_word_is_exit_2(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "code", "message"),
    [
        ("fine", 0, ""),
        ("config", 2, "glm-train: error: 2 faults:\n  one\n  two\n"),
        ("check", 3, "glm-train: error: no\n"),
        ("ctrl-c", 130, "glm-train: stopped by Ctrl-C\n"),
    ],
)
def test_exit_codes(fake, recipe: str, code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fake", recipe]) == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback(fake) -> None:
    with pytest.raises(ZeroDivisionError):
        main(["fake", "bug"])


def test_an_exit_code_of_the_command_passes(fake) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fake", "exit"])
    assert stopped.value.code == 143


@pytest.mark.parametrize("at", range(4))
def test_an_option_may_stand_anywhere_among_the_overrides(fake, at: int) -> None:
    words = ["r", "a=1", "b=-2"]
    assert main(["fake", *words[:at], "-m", *words[at:]]) == 0
    assert fake == [["r", "a=1", "b=-2", "-m"]]


@pytest.mark.parametrize(
    "arguments", [["--help"], [], ["show", "--help"], ["recipes"], ["fitt"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = ["torch", "lightning", "hydra", "omegaconf", "transformers", "peft", "wandb", "numpy", "pyarrow"]
    program = (
        "import sys\nfrom glm_train.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("encoding", ["ascii", "ascii:surrogateescape", "latin-1"])
def test_letters_that_the_terminal_lacks(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "glm_train", "show", "quickstart"]
    shown = subprocess.run([*command, "run_name=训练"], capture_output=True, env=environment, check=True)
    recipe = tmp_path / "mine.yaml"
    recipe.write_bytes(shown.stdout)
    assert compose(str(recipe)).run_name == "训练"
    wrong = subprocess.run([*command, "optim.训练=1"], capture_output=True, env=environment, check=False)
    assert wrong.returncode == 2
    assert rb"\u8bad\u7ec3" in wrong.stderr
    assert b"Traceback" not in wrong.stderr


def test_the_streams_escape_what_they_cannot_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    main(["recipes"])
    print("训练", flush=True)
    assert raw.getvalue().endswith(b"\\u8bad\\u7ec3\n")


def test_as_a_module_with_the_exit_code_of_main() -> None:
    done = run("show", "quickstart", "optim.lrr=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("glm-train: error: unknown key 'optim.lrr'")
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    # The pipe has no reader before the program starts, so its first write fails, whatever the timing.
    program = (
        "import os, subprocess, sys\nread, write = os.pipe()\nos.close(read)\n"
        "done = subprocess.run([sys.executable, '-m', 'glm_train', 'show', 'quickstart'], stdout=write,"
        " stderr=subprocess.PIPE)\nprint(done.returncode, done.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "141 b''\n"
