"""Data sets on the Hugging Face hub, through the `datasets` library. It runs no code of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from glm_train.errors import DataError


def download(hub_id: str, config: str | None, split: str) -> list[Path]:
    """The Arrow files of one split, from the Hugging Face cache, or fetched into it first.

    Raises:
        DataError: no such data set, configuration or split; no access; no connection; files that the library
            cannot turn into a table.
    """
    try:
        dataset = _load(hub_id, config, split)
        files = [Path(entry["filename"]) for entry in dataset.cache_files]
    except MemoryError:
        raise
    except Exception as error:  # the library raises ValueError, OSError, RuntimeError and its own kinds alike
        raise DataError(f"{hub_id}: {_reason(error)} {_cure(hub_id, split, error)}") from error
    if not files:
        raise DataError(f"{hub_id}: the split {split!r} is empty. Name another one: {hub_id}:SPLIT.")
    return files


def _load(hub_id: str, config: str | None, split: str) -> Any:
    """The one place where the network may be used."""
    from datasets import load_dataset

    return load_dataset(hub_id, config, split=split)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the data set cannot be loaded: {text[:300].rstrip('.')}."


def _cure(hub_id: str, split: str, error: Exception) -> str:
    text = str(error)
    if "split" in text.lower() and split in text:
        return f"Name one of its splits: {hub_id}:SPLIT."
    if "Config name" in text or "BuilderConfig" in text:
        return f"Name one of its configurations, with a split: {hub_id}:CONFIG/{split}."
    if isinstance(error, OSError):
        return "Check the connection and the spelling; for a local file, no file of this name was found."
    return "Check its spelling and access (HF_TOKEN), or download its files and name those."
