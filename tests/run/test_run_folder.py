"""Which model a user's word names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glm_train.errors import CheckpointError, ConfigError
from glm_train.run_folder import RunFolder, choose_run_folder, find_model


def finished(run: Path) -> Path:
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (run / "config.yaml").write_text("{}")
    return run


def test_a_name_that_is_no_folder_stays_a_name_for_the_hub() -> None:
    assert find_model("zai-org/GLM-4-9B-0414") == "zai-org/GLM-4-9B-0414"


def test_a_run_a_model_and_a_folder_of_runs(tmp_path: Path) -> None:
    first, second = finished(tmp_path / "a"), finished(tmp_path / "b")
    os.utime(second / "config.yaml", (1, 1))
    (tmp_path / "c" / "checkpoints").mkdir(parents=True)  # a run that did not finish
    assert find_model(str(first)) == first / "model"
    assert find_model(str(first / "model")) == first / "model"
    assert find_model(str(tmp_path)) == first / "model"


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a model folder"):
        find_model(str(tmp_path))


def test_names_that_no_folder_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        choose_run_folder("x", "a" * 300, "never")


def test_two_runs_of_one_second_get_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, _, _ = choose_run_folder("quickstart", None, "never")
    first.begin("{}", latest=True)
    second, _, _ = choose_run_folder("quickstart", None, "never")
    assert second.path != first.path
    assert (tmp_path / "runs" / "quickstart" / "latest").resolve() == first.path.resolve()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_run_does_not_write_among_a_models_files(tmp_path: Path, resume: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a model folder, not a run's"):
        choose_run_folder("tiny", str(tmp_path), resume)


def test_a_folder_without_a_state_says_how_to_start_anew(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no valid state in .*leave resume out"):
        choose_run_folder("tiny", None, str(tmp_path))


def test_a_run_leaves_what_lies_beside_it_alone(tmp_path: Path) -> None:
    for name in ("notes.tmp", ".tmp-rsync", ".old-notes"):
        (tmp_path / name).write_text("of the user")
    (tmp_path / ".tmp-work").mkdir()
    (tmp_path / "x.tmp").mkdir()
    unfinished = ("config.yaml.tmp", "metrics.csv.tmp", "samples.jsonl.tmp")
    for name in unfinished:
        (tmp_path / name).write_text("half")
    (tmp_path / ".tmp-model-17").mkdir()
    RunFolder(tmp_path).begin("seed: 0\n", latest=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"notes.tmp", ".tmp-rsync", ".old-notes", ".tmp-work", "x.tmp", "config.yaml"}
