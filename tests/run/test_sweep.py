"""`fit -m` for real: two learning rates, two run folders, each with its own settings and result."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from glm_train.cli.main import main


@pytest.mark.slow
def test_a_sweep_over_two_learning_rates_gives_two_run_folders(
    tmp_path: Path, model_folder: Path, chat_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model.path": model_folder,
        "data.train": chat_file,
        "data.max_length": 96,
        "trainer.max_steps": 2,
        "optim.lr": "1e-3,2e-3",
        "output_dir": tmp_path / "sweep",
    }
    assert main(["fit", "chat_smoke", *(f"{k}={v}" for k, v in settings.items()), "-m"]) == 0
    runs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert len(runs) == 2
    rates = [yaml.safe_load((run / "config.yaml").read_text())["optim"]["lr"] for run in runs]
    assert rates == [1e-3, 2e-3]
    assert all((run / "model" / "model.safetensors").exists() for run in runs)
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_named_by_its_time_is_also_the_latest(
    tmp_path: Path, model_folder: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [
        f"model.path={model_folder}",
        f"data.train={chat_file}",
        "data.max_length=96",
        "trainer.max_steps=2",
    ]
    assert main(["fit", "chat_smoke", *given]) == 0
    assert main(["fit", "chat_smoke", *given]) == 0
    runs = [path for path in (tmp_path / "runs" / "chat_smoke").iterdir() if not path.is_symlink()]
    assert len(runs) == 2
    latest = tmp_path / "runs" / "chat_smoke" / "latest"
    assert latest.resolve() == max(runs, key=lambda run: (run / "config.yaml").stat().st_mtime_ns).resolve()
    assert main(["generate", "runs/chat_smoke", "--prompt", "Hello", "--max-new-tokens", "2"]) == 0
