"""Training with `data.streaming=true` is the same training, bit for bit, stopped and resumed as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from glm_train import run
from glm_train.errors import DataError
from support.fitted import cut_back
from support.runs import configure, rows, weights


def test_a_streamed_run_ends_as_one_from_stored_tokens(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    def fit(name: str, **settings: object) -> Path:
        config = configure(
            model_folder,
            f"{chat_file}:2",
            tmp_path / name,
            trainer__save_every=2,
            trainer__keep=100,
            data__validation_fraction=0.2,
            batch__documents=2,
            optim__lr=0.01,
            **settings,
        )
        run.fit(config, "test")
        return tmp_path / name

    stored = fit("stored")
    streamed = fit("streamed", data__streaming="true")
    assert len([*(streamed / "checkpoints").iterdir()]) > 3
    part = cut_back(streamed, tmp_path / "part", 4)
    fit("part", data__streaming="true", data__workers=1, resume="auto")
    expected = weights(stored)
    for folder in (streamed, part):
        assert rows(folder / "metrics.csv") == rows(stored / "metrics.csv")
        for name, tensor in weights(folder).items():
            assert np.array_equal(tensor, expected[name]), (folder.name, name)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changes_during_the_run_ends_it(
    tmp_path: Path, model_folder: Path, chat_file: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = Path(shutil.copy(chat_file, tmp_path / "chats.jsonl"))
    train = run._train

    def meddle(*args: object, **options: object) -> None:
        with chats.open("a") as file:
            file.write("\n")
        train(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "_train", meddle)
    config = configure(
        model_folder,
        chats,
        tmp_path / "run",
        data__streaming="true",
        data__workers=workers,
        batch__documents=2,
    )
    with pytest.raises(DataError) as caught:
        run.fit(config, "test")
    assert str(caught.value).startswith(f"{chats}: the file changed since it was prepared. ")
