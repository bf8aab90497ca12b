"""Which settings a command reads: the run's, the command line's over them, the schema's where there is no run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.config.compose import compose
from glm_train.config.schema import TokenData
from glm_train.config.yaml_text import to_yaml
from glm_train.errors import ConfigError
from glm_train.predict.evaluate_classes import _format_for
from glm_train.predict.settings import choose
from glm_train.predict.tokens import reads_conll


@pytest.fixture
def run(single: Path, tmp_path: Path) -> Path:
    """The folder of a run that held out a part of its data, on a GPU."""
    settings = compose(
        "chat_smoke",
        [
            *("task=sequence_classification", "data=sequence", "model.path=base", "data.train=gone.csv"),
            *(
                "data.text_key=body",
                "data.max_length=64",
                "data.validation=null",
                "data.validation_fraction=0.1",
            ),
            *(
                "trainer.accelerator=gpu",
                "trainer.precision=bf16-mixed",
                "trainer.result=best",
                "batch.tokens=64",
            ),
        ],
    )
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(settings))
    shutil.copytree(single, tmp_path / "run" / "model")
    return tmp_path / "run"


def data_of(chosen: Any) -> Any:
    return chosen.config.data


def test_a_run_brings_its_settings(run: Path) -> None:
    chosen = choose(str(run), ["data.max_length=128"])
    assert (chosen.task, chosen.of_run, chosen.folder) == ("sequence_classification", True, run / "model")
    assert (data_of(chosen).text_key, data_of(chosen).max_length) == ("body", 128)
    assert chosen.config.trainer.precision == "bf16-mixed"
    assert chosen.config.trainer.accelerator == "auto"  # where it was trained is not where it is used
    assert chosen.given == {"data.max_length"}
    assert data_of(choose(str(run / "model"), [])).text_key == "body"


def test_evaluation_takes_other_data_than_the_part_held_out(run: Path) -> None:
    chosen = choose(str(run), ["data.validation=other.csv"], evaluate=True)
    assert data_of(chosen).validation == ("other.csv",)
    assert data_of(choose(str(run), [], evaluate=True)).validation is None


def test_a_bare_folder_has_the_defaults(single: Path, tagger: Path) -> None:
    texts, words = choose(str(single), []), choose(str(tagger), ["data.overlap=7"])
    assert (data_of(texts).text_key, data_of(texts).max_length) == ("text", 2048)
    assert not texts.of_run
    assert (words.task, data_of(words).overlap) == ("token_classification", 7)
    assert words.config.trainer.precision == ("bf16-mixed" if torch.cuda.is_available() else "fp32")


def test_the_model_of_another_task_in_a_run(run: Path, tagger: Path) -> None:
    shutil.rmtree(run / "model")
    shutil.copytree(tagger, run / "model")
    with pytest.raises(ConfigError, match="the run's task is sequence_classification"):
        choose(str(run), [])


@pytest.mark.parametrize(
    ("name", "format", "given", "expected"),
    [
        ("a.conll", "auto", False, True),
        ("a.conll", "entities", False, True),
        ("a.conll", "entities", True, False),
        ("a.jsonl", "conll", False, False),
        ("a.jsonl", "conll", True, True),
        ("a.txt", "conll", False, True),
        ("a.txt", "auto", False, False),
        ("a.TXT", "conll", True, True),
    ],
)
def test_what_is_read_as_conll(name: str, format: Any, given: bool, expected: bool) -> None:
    data = TokenData(train=("t",), format=format)
    assert reads_conll(Path(name), data, given=given) == expected


def test_the_runs_format_gives_way_to_a_files_name() -> None:
    """Where only the run says how files are read."""
    assert _format_for([Path("a.jsonl")], "conll") == "auto"
    assert _format_for([Path("a.jsonl"), Path("b.txt")], "conll") == "conll"
    assert _format_for([Path("a.conll")], "conll") == "conll"
    assert _format_for([Path("a.conll")], "entities") == "auto"
    assert _format_for([Path("a.jsonl")], "entities") == "entities"
    assert _format_for([Path("a.jsonl")], "tokens") == "tokens"
