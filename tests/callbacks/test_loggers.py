"""Loggers, for real: the files they leave."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from glm_train import run
from glm_train.callbacks.csv_logger import CsvLogger
from glm_train.callbacks.loggers import tensorboard_logger
from glm_train.callbacks.peak_flops import peak_flops
from glm_train.callbacks.report import write_report
from glm_train.errors import ConfigError
from support.runs import configure


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_scalars_of_one_step_share_a_row_and_new_ones_add_columns(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"epoch": 0.5, "train/loss": 2.0}, step=1)
    logger.log_metrics({"epoch": 1.0, "train/loss": 1.0}, step=2)
    logger.log_metrics({"val/loss": 1.5}, step=2)
    logger.save()
    rows = read(tmp_path / "metrics.csv")
    assert list(rows[0]) == ["step", "epoch", "train/loss", "val/loss"]
    assert rows[0] == {"step": "1", "epoch": "0.5", "train/loss": "2", "val/loss": ""}
    assert rows[1] == {"step": "2", "epoch": "1", "train/loss": "1", "val/loss": "1.5"}


def test_scalars_logged_after_the_row_was_written_still_join_it(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"train/loss": 1.0}, step=2)
    logger.save()
    logger.log_metrics({"val/loss": 1.5}, step=2)
    logger.finalize("success")
    assert [row["val/loss"] for row in read(tmp_path / "metrics.csv")] == ["1.5"]


def test_a_resumed_run_drops_the_rows_of_steps_that_run_again(tmp_path: Path) -> None:
    first = CsvLogger(tmp_path / "metrics.csv")
    for step in (1, 2, 3):
        first.log_metrics({"train/loss": float(step)}, step=step)
    first.save()
    second = CsvLogger(tmp_path / "metrics.csv", resumed_step=1)
    second.log_metrics({"train/loss": 9.0}, step=2)
    second.save()
    assert [(row["step"], row["train/loss"]) for row in read(tmp_path / "metrics.csv")] == [
        ("1", "1"),
        ("2", "9"),
    ]


def test_wandb_records_a_run_offline(
    tmp_path: Path, model_folder: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        "logger=wandb",
        "logger.mode=offline",
        data__validation=chat_file,
    )
    run.fit(config, "test")
    import wandb

    wandb.teardown()  # as at the end of the process: the writer flushes its file
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 1
    content = files[0].read_bytes()
    assert b"train/loss" in content
    assert b"val/loss" in content


def test_tensorboard_records_every_scalar(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run.fit(configure(model_folder, chat_file, tmp_path / "run", "logger=tensorboard"), "test")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = read(tmp_path / "run" / "metrics.csv")
    assert [e.step for e in events.Scalars("train/loss")] == [int(row["step"]) for row in logged]
    assert events.Scalars("train/loss")[-1].value == pytest.approx(float(logged[-1]["train/loss"]), rel=1e-6)


def test_a_missing_tensorboard_names_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning.pytorch.loggers as loggers

    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(ConfigError, match=r'pip install "glm-train\[tensorboard\]"'):
        tensorboard_logger(tmp_path)


def test_the_report_is_one_page_with_the_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,train/loss,val/loss\n1,0.5,2.5,\n2,1,1.5,1.75\n", encoding="utf-8"
    )
    curves = write_report(tmp_path / "report.html", tmp_path / "metrics.csv", title="<run>")
    assert curves == {"train/loss": [(1, 2.5), (2, 1.5)], "val/loss": [(2, 1.75)]}
    page = (tmp_path / "report.html").read_text()
    assert "&lt;run&gt;" in page
    assert page.count("<polyline") == 2
    assert "http" not in page


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", None),
    ],
)
def test_utilisation_is_given_for_known_devices_only(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
