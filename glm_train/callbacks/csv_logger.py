"""`metrics.csv` of a run: one row a step, first columns step and epoch."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from glm_train import dist
from glm_train.checkpoint.disk import disk_errors
from glm_train.errors import CheckpointError

FIRST_COLUMNS = ("step", "epoch")


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a metrics.csv. Raises `CheckpointError` where it is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
        if columns[:2] != list(FIRST_COLUMNS):
            raise ValueError(f"its first columns are not {' and '.join(FIRST_COLUMNS)}")
        for row in rows:
            if None in row:
                raise ValueError(f"the row of step {row['step']} has too many values")
            int(row["step"])
            for value in filter(None, row.values()):
                float(value)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise CheckpointError(
            f"{path}: cannot be read as the metrics of a run ({error}). Move it away to go on without its rows"
        ) from None
    return columns, rows


def _drop_cut_row(path: Path) -> None:
    """Remove a last row that a full disk cut off: what is left of its numbers looks like others."""
    with suppress(OSError):  # which the reader reports
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


class CsvLogger(Logger):
    """Writes every logged scalar. A file of an earlier part of the run is continued, from `resumed_step` on.

    Rows after `resumed_step` belong to steps that are about to run again, so they are dropped first.
    """

    def __init__(self, path: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._columns = list(FIRST_COLUMNS)
        self._rows: list[dict[str, str]] = []
        self._pending: dict[str, str] = {}
        if path.exists() and dist.rank() == 0:
            _drop_cut_row(path)
            self._columns, rows = read_metrics(path)
            self._rows = [row for row in rows if int(row["step"]) <= resumed_step]
            self._write_all()

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of `step`; the row is written when another step begins, or on `save`."""
        if self._pending and self._pending["step"] != str(step):
            self.save()
        self._pending["step"] = str(step)
        self._pending.update({name: f"{value:.8g}" for name, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        """Write the row that is still open, and the file where there is none."""
        if not self._pending:
            if not self.path.exists():  # a run that has nothing to log still has the file
                with disk_errors(self.path.parent, 0, self.path.name):
                    self._write_all()
            return
        row, self._pending = self._pending, {}
        with disk_errors(self.path.parent, 0, self.path.name):
            self._save_row(row)

    def _save_row(self, row: dict[str, str]) -> None:
        if self._rows and self._rows[-1]["step"] == row["step"]:
            self._rows[-1].update(row)
            rewrite = True
        else:
            self._rows.append(row)
            rewrite = False
        new = [name for name in row if name not in self._columns]
        self._columns += new
        if new or rewrite or not self.path.exists():
            self._write_all()
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)

    def finalize(self, status: str) -> None:
        self.save()

    def _write_all(self) -> None:
        """Write the whole file beside the old one and put it in its place."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".csv.tmp")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self.path)
