"""Replies that were stopped in the middle are gone on with, as if never stopped, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import ConfigError
from glm_train.predict import chat as chat_module
from support.chat_predicting import Predicting, make_predicting


@pytest.fixture
def predicting(model_folder: Path, chat_file: Path, tmp_path: Path) -> Predicting:
    return make_predicting(model_folder, chat_file, tmp_path)


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def killing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Small windows, and an end after so many of them are written."""
    monkeypatch.setattr(chat_module, "WINDOW", 4)

    def kill_after(windows: int) -> None:
        answered, count = chat_module._answered, iter(range(1000))

        def dying(*arguments: Any) -> Iterator[Any]:
            if next(count) == windows:
                raise Killed
            return answered(*arguments)

        monkeypatch.setattr(chat_module, "_answered", dying)

    return kill_after


DRAWN = {"max_new_tokens": 12, "temperature": 2.0, "seed": 5}


@pytest.mark.parametrize("torn", [b"", b'{"line": 9, "repl'])
def test_a_stopped_run_goes_on_as_if_never_stopped(
    predicting: Predicting,
    chat_file: Path,
    killing: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    torn: bytes,
) -> None:
    whole = chat_module._answered
    predicting(chat_file, "whole.jsonl", generation=DRAWN)
    killing(2)
    with pytest.raises(Killed):
        predicting(chat_file, generation=DRAWN)
    part = predicting.folder / "out.jsonl.part"
    lines = part.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    # killed in the middle of the second window, as a full disk may do
    part.write_bytes(b"".join(lines[:6]) + torn)
    with pytest.raises(ConfigError, match="Add --resume to go on with it, or --overwrite"):
        predicting(chat_file, generation=DRAWN)
    monkeypatch.setattr(chat_module, "_answered", whole)
    summary = predicting(chat_file, resume=True, generation=DRAWN)
    assert summary.notes == [f"went on behind the 6 lines of {part}"]
    assert (summary.predicted, summary.faulty) == (11, 0)
    assert (predicting.folder / "out.jsonl").read_bytes() == (predicting.folder / "whole.jsonl").read_bytes()
    assert not list(predicting.folder.glob("*.part*"))
    again = predicting(chat_file, resume=True, generation=DRAWN)
    assert (again.predicted, again.notes) == (
        11,
        [f"{predicting.folder / 'out.jsonl'} is complete: nothing was left to do"],
    )


def test_going_on_with_other_input_settings_or_model_is_refused(
    predicting: Predicting, chat_file: Path, tmp_path: Path, killing: Callable[[int], None]
) -> None:
    killing(1)
    with pytest.raises(Killed):
        predicting(chat_file)
    part = (tmp_path / "out.jsonl.part").read_bytes()
    changed = tmp_path / "changed.jsonl"
    changed.write_bytes(chat_file.read_bytes() + b"\n")
    with pytest.raises(ConfigError, match="what differs: the input file"):
        predicting(changed, resume=True)
    with pytest.raises(ConfigError, match="what differs: generation"):
        predicting(chat_file, resume=True, generation={"max_new_tokens": 9})
    config = predicting.options.config
    config = replace(config, trainer=replace(config.trainer, precision="bf16-mixed"))
    with pytest.raises(ConfigError, match=r"what differs: trainer\.precision"):
        predicting(chat_file, resume=True, config=config)
    assert (tmp_path / "out.jsonl.part").read_bytes() == part
    (tmp_path / "out.jsonl.part.json").unlink()
    with pytest.raises(ConfigError, match="nobody knows what"):
        predicting(chat_file, resume=True)


def test_an_output_that_is_there_is_kept_unless_it_is_to_go(predicting: Predicting, chat_file: Path) -> None:
    out = predicting.folder / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(ConfigError, match="this file exists"):
        predicting(chat_file)
    with pytest.raises(ConfigError, match=r"out\.jsonl:1: this is no line of predict's"):
        predicting(chat_file, resume=True)
    assert out.read_text() == "mine\n"
    assert predicting(chat_file, overwrite=True).predicted == 11
    assert len(predicting.lines()) == 11


def test_resuming_what_was_never_begun_begins(predicting: Predicting, chat_file: Path) -> None:
    assert predicting(chat_file, resume=True).notes == []
    assert len(predicting.lines()) == 11
