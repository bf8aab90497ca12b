"""`evaluate` on a run's own validation data prints the values that `fit` logged, to the last digit of the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_train.config.compose import compose
from glm_train.predict.run import evaluate, predict
from glm_train.run import fit
from support.classifier_folder import read_lines, write_lines
from support.runs import rows

NAMES = [("Anna", "PER"), ("Beijing", "LOC"), ("Bo Lee", "PER"), ("New York", "LOC")]


def write_conll(path: Path, count: int, seed: int) -> Path:
    """Short sentences with two columns before the tag, and one long enough for several windows."""
    dice = np.random.default_rng(seed)
    lines = []
    for number in range(count):
        for _ in range(12 if number == 3 else int(dice.integers(1, 3))):
            name, kind = NAMES[int(dice.integers(4))]
            words = name.split()
            lines += [f"{w} X {'BI'[i > 0]}-{kind}" for i, w in enumerate(words)]
            lines += ["is X O", "in X O"]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_texts(path: Path, count: int, seed: int) -> Path:
    dice = np.random.default_rng(seed)
    records = [{"words": f"Yes {n}", "topic": ["yes", "no"][int(dice.integers(5) > 3)]} for n in range(count)]
    return write_lines(path, records)


COMMON = ("trainer.max_epochs=2", "trainer.max_steps=null", "trainer.accelerator=cpu", "data.max_length=24")
WORDS = ("task=token_classification", "data=tokens", "data.overlap=6", "data.label_pieces=all")
TEXTS = ("task=sequence_classification", "data=sequence", "data.text_key=words", "data.label_key=topic")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("words", (*WORDS, "model.bidirectional=true", "optim.lr=1e-2")),
        ("words", (*WORDS, "adapter=lora", "trainer.precision=bf16-mixed")),
        ("texts", (*TEXTS, "optim.lr=1e-2", "task.class_weights=balanced")),
    ],
)
def test_as_fit_logged(kind: str, settings: tuple[str, ...], model_folder: Path, tmp_path: Path) -> None:
    write, name = (write_conll, "a.bio") if kind == "words" else (write_texts, "a.jsonl")
    (tmp_path / "train").mkdir()
    files = [write(tmp_path / "train" / name, 12, 0), write(tmp_path / name, 9, 1)]
    overrides = [f"model.path={model_folder}", f"data.train={files[0]}", f"data.validation={files[1]}"]
    config = compose("chat_smoke", [*settings, *COMMON, *overrides, f"output_dir={tmp_path / 'run'}"])
    fit(config, "chat_smoke")
    logged = {
        key: value for key, value in rows(tmp_path / "run" / "metrics.csv")[-1].items() if key[:4] == "val/"
    }
    assert float(logged["val/loss"]) > 0
    for overrides in [], [f"data.validation={files[1]}"]:
        found = evaluate(str(tmp_path / "run"), overrides).metrics
        assert set(found) == set(logged)
        for key, value in logged.items():
            assert found[key] == pytest.approx(float(value), rel=2e-6, abs=1e-8), key
    files[0].rename(tmp_path / "moved")
    if "task.class_weights=balanced" in settings:
        unweighted = evaluate(str(tmp_path / "run"))
        assert unweighted.metrics["val/loss"] != pytest.approx(float(logged["val/loss"]))
        assert any("without task.class_weights" in note for note in unweighted.notes)
    # a prediction reads records as the run did, and needs none of its files but the model
    summary = predict(str(tmp_path / "run"), files[1], tmp_path / "out.jsonl")
    assert (summary.predicted, summary.faulty) == (9, 0)
    answers = read_lines(tmp_path / "out.jsonl")
    assert all(("tags" if kind == "words" else "label") in one for one in answers)
