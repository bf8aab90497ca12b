"""The loggers a run can have beside metrics.csv, by their registered names."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch.loggers import Logger

from glm_train.errors import ConfigError


def wandb_logger(folder: Path, *, name: str, project: str, entity: str | None, mode: str) -> Logger:
    """Weights & Biases. `mode` is `online`, `offline` (files under `folder`, to be synced later) or `auto`:
    what WANDB_MODE says, else online where a key is found and offline where none is. Keys are never settings.
    """
    from lightning.pytorch.loggers import WandbLogger

    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    return WandbLogger(
        name=name,
        project=project,
        entity=entity,
        save_dir=str(folder),
        offline=mode == "offline",
        log_model=False,
    )


def tensorboard_logger(folder: Path) -> Logger:
    """TensorBoard event files in `folder`. Raises `ConfigError` where the package is missing."""
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(str(folder), name="tensorboard", version="")
    except ModuleNotFoundError:
        raise ConfigError(
            'logger=tensorboard needs the tensorboard package: pip install "glm-train[tensorboard]"'
        ) from None


def _has_key() -> bool:
    """Whether W&B could log in: its variable is set, or `wandb login` left an entry."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
