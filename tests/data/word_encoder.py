"""A stand-in for a tokenizer, and what tests of prepared data share."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glm_train.data.encode import Encoded
from glm_train.data.prepare import prepare
from glm_train.data.store import ExampleStore, trained_tokens
from glm_train.errors import DataError
from glm_train.text.chat import ExampleTooLong


@dataclass(frozen=True)
class WordEncoder:
    """`{"ids": [...], "train": k}`: the last k ids are trained. A stand-in for a tokenizer, and picklable."""

    limit: int = 1000
    slow: float = 0.0

    def __call__(self, value: dict[str, Any]) -> list[Encoded]:
        time.sleep(self.slow)
        if "ids" not in value:
            raise DataError("no ids. Add them.")
        if value.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        ids = np.array(value["ids"], np.int32)
        if len(ids) > self.limit:
            raise ExampleTooLong("too long")
        trained = value.get("train", 1)
        if not trained:
            return [Encoded(dropped="no token of it is trained")]
        labels = np.where(np.arange(len(ids)) >= len(ids) - trained, ids, -100).astype(np.int32)
        lost, cut = value.get("lost", 0), value.get("cut", False)
        return [Encoded(ids, labels, trained_tokens(labels), dropped_messages=lost, cut=cut)]

    def settings(self) -> dict[str, Any]:
        return {"limit": self.limit}


def write(path: Path, records: list[Any]) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n")
    return path


def ids_of(store: ExampleStore) -> list[list[int]]:
    return [store[i][0].tolist() for i in range(len(store))]


def refusal(*files: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare(files, WordEncoder(), **options)
    return str(caught.value)
