"""`glm-train show` and `glm-train recipes`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from glm_train.cli.main import main
from glm_train.config.compose import recipes


def test_show_prints_yaml_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "quickstart", "optim.lr=0.5"]) == 0
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["optim"]["lr"] == 0.5
    assert shown.err == ""


def test_show_of_what_show_printed_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["show", "quickstart", "schedule=wsd", "logger=wandb"])
    first = capsys.readouterr().out
    path = tmp_path / "config.yaml"
    path.write_text(first, encoding="utf-8")
    assert main(["show", str(path)]) == 0
    assert capsys.readouterr().out == first


def test_show_lists_faults_under_a_heading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "chat_smoke", "optim.lr=-1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "glm-train: error: 3 faults in the configuration of 'chat_smoke':"
    assert all(line.startswith("  ") for line in lines[1:])


def test_recipes_are_listed_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [name for name, _ in recipes()]
    assert all(line.endswith(purpose) for line, (_, purpose) in zip(lines, recipes(), strict=True))
