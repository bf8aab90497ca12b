"""`predict` and `evaluate` as users type them: what is printed, exit codes, and mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glm_train.cli.main import main
from support.classifier_folder import NER, make_classifier, read_lines, write_lines


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """`texts`, a model of sequences, and `words`, one of tokens."""
    root = tmp_path_factory.mktemp("models")
    make_classifier(root / "texts", tiny_tokenizer_folder, ("no", "yes"), "single_label_classification")
    make_classifier(root / "words", tiny_tokenizer_folder, NER)
    return root


@pytest.fixture
def place(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with both models and some files."""
    for name in ("texts", "words"):
        (tmp_path / name).symlink_to(models / name)
    write_lines(tmp_path / "in.jsonl", [{"text": "Hello"}, "{torn", {"text": "Yes", "label": "yes"}])
    write_lines(tmp_path / "good.jsonl", [{"text": "Hello", "label": "no"}, {"text": "Yes", "label": "yes"}])
    (tmp_path / "good.conll").write_text("Anna B-PER\nis O\n\nRome B-LOC\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def runs(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command; give its exit code, output and messages."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        output, error = capsys.readouterr()
        assert "Traceback" not in error
        return code, output, error

    return run


def test_predict_says_what_it_did(place: Path, runs: Callable[..., tuple[int, str, str]]) -> None:
    code, output, error = runs("predict", "texts", "in.jsonl", "out.jsonl")
    assert (code, output) == (0, "out.jsonl: 2 records answered, 1 with an error\n")
    assert error.startswith("glm-train: 1 of 3 records could not be read")
    assert "in.jsonl:2: " in error
    assert [sorted(one)[0] for one in read_lines(place / "out.jsonl")] == ["label", "error", "label"]


def test_an_option_may_stand_among_the_settings(
    place: Path, runs: Callable[..., tuple[int, str, str]]
) -> None:
    (place / "out.jsonl").write_text("old")
    words = ["predict", "words", "good.conll", "out.jsonl", "data.max_length=64", "--overwrite"]
    assert runs(*words, "data.overlap=8")[0] == 0
    assert len(read_lines(place / "out.jsonl")) == 2


def test_evaluate_prints_columns_and_tables(place: Path, runs: Callable[..., tuple[int, str, str]]) -> None:
    code, output, _ = runs("evaluate", "words", "data.validation=good.conll")
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["val/loss", "val/f1", "val/precision"]
    assert len({len(line) for line in lines[: lines.index("")]}) == 1
    assert "constrained decoding: F1 " in output
    assert "scores by label" in lines
    assert any(line.startswith("PER") for line in lines)
    assert "confusion of words (rows: gold, columns: predicted)" in lines


def test_evaluate_as_json(place: Path, runs: Callable[..., tuple[int, str, str]]) -> None:
    code, output, _ = runs("evaluate", "texts", "data.validation=good.jsonl", "--json")
    found = json.loads(output)
    assert code == 0
    assert {"val/loss", "val/accuracy", "val/f1"} <= set(found)
    assert all(isinstance(value, float) for value in found.values())


def test_an_unreadable_end_is_exit_2_and_keeps_what_there_is(
    place: Path, runs: Callable[..., tuple[int, str, str]]
) -> None:
    (place / "in.csv").write_text('text\ngood\n"open\n', encoding="utf-8")
    code, output, error = runs("predict", "texts", "in.csv", "out.jsonl")
    assert (code, output) == (2, "out.jsonl: 1 record answered, 1 with an error\n")
    assert error.endswith("glm-train: error: in.csv could not be read to its end\n")
    assert len(read_lines(place / "out.jsonl")) == 2


MISTAKES = [
    ("predict", "the following arguments are required: RUN_OR_MODEL, IN, OUT"),
    ("predict texts none.jsonl out", "none.jsonl: no such file"),
    ("predict texts in.json out", "Did you mean 'in.jsonl'?"),
    ("predict texts in.jsonl texts", "texts: this is a folder"),
    ("predict texts in.jsonl in.jsonl --overwrite", "the same file"),
    ("predict texts in.jsonl good.conll", "add --overwrite"),
    ("predict texts in.jsonl no/out", "there is no folder 'no'"),
    ("predict texts texts out", "this is a folder"),
    ("predict none in.jsonl out", "none: "),
    ("predict in.jsonl in.jsonl out", "in.jsonl"),
    ("predict texts in.jsonl out data.textkey=a", "Did you mean 'text_key'"),
    ("predict texts in.jsonl out data.max_length=0", "data.max_length: must be at least 1, got 0"),
    ("predict texts in.jsonl out data.max_length=1", "data.max_length=1"),
    ("predict texts in.jsonl out optim.lr=1", "optim.lr: `predict` does not read it"),
    ("predict texts in.jsonl out data.format=conll", "data.format is read by"),
    ("predict texts in.jsonl out text", "not of the form key=value"),
    ("predict texts in.jsonl out data.text_key=body", "cannot be read"),
    ("predict texts in.jsonl out --threshold 2", "--threshold 2.0: must be above 0"),
    ("predict words in.jsonl out --threshold 0.5", "--threshold is for sequence classification"),
    ("predict words in.jsonl out --temperature 1", "--temperature is for chat models"),
    ("predict words in.jsonl out --resume", "--resume is for chat models"),
    ("predict words in.jsonl out --top-p 2 --temperature 1", "--top-p 2.0: must be above 0 and at most 1"),
    ("predict words in.jsonl out --seed 1", "--seed needs --temperature"),
    ("predict words in.jsonl out --verbose", "there is no option --verbose"),
    ("predict words in.jsonl out trainer.accelerator=tpu", "trainer.accelerator"),
    ("predict words blank.conll out", "no line with a token"),
    ("predict texts empty.jsonl out", "the file is empty"),
    ("evaluate", "the following arguments are required: RUN_OR_MODEL"),
    ("evaluate texts", "data.validation is missing"),
    ("evaluate texts data.validation=none.jsonl", "none.jsonl"),
    ("evaluate texts data.validation=in.jsonl", "in.jsonl:1: "),
    ("evaluate words data.validation=good.jsonl", "good.jsonl:1: "),
    ("evaluate texts data.validation=good.jsonl data.train=x", "data.train: `evaluate` does not read it"),
    ("evaluate texts data.validation=good.jsonl task.labels=[a,b]", "task.labels: `evaluate` does not read"),
    ("evaluate words data.validation=good.conll data.tag_column=0", "the same column"),
    ("evaluate words data.validation=good.conll task=chat", "task"),
    ("evaluate words data.validation=good.conll --samples 3", "--samples is for chat models"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_are_exit_2_with_their_cure(
    place: Path, runs: Callable[..., tuple[int, str, str]], arguments: str, message: str
) -> None:
    (place / "blank.conll").write_text("\n\n")
    (place / "empty.jsonl").write_text("")
    before = sorted(path.name for path in place.iterdir())
    code, output, error = runs(*arguments.split())
    assert (code, output) == (2, "")
    assert message in error
    assert sorted(path.name for path in place.iterdir()) == before


def test_a_base_model_has_no_labels_to_give(
    place: Path, model_folder: Path, runs: Callable[..., tuple[int, str, str]]
) -> None:
    """A chat model is for chat, whatever the file holds; a damaged folder is said to be one."""
    shutil.copytree(place / "texts", place / "broken")
    (place / "broken" / "model.safetensors").write_bytes(b"torn")
    code, _, error = runs("predict", "broken", "in.jsonl", "out")
    assert code == 2
    assert "model.safetensors" in error
    code, _, error = runs("predict", model_folder, "in.jsonl", "out", "--threshold", "0.5")
    assert (code, "this model is for chat" in error) == (2, True)
