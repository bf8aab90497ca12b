"""The sound folders that every hostile one is made from, and the process that loads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support.refusals import WatchedProcess
from support.tiny_heads import TINY


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in one file. Read only."""
    return _save(tmp_path_factory.mktemp("sound") / "model", 10**9)


@pytest.fixture(scope="session")
def sharded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in several files with their index. Read only."""
    return _save(tmp_path_factory.mktemp("sharded") / "model", 8000)


@pytest.fixture(scope="session")
def watched(sound_folder: Path) -> Iterator[WatchedProcess]:
    process = WatchedProcess(sound_folder)
    yield process
    process.close()


def _save(folder: Path, max_shard_bytes: int) -> Path:
    from glm_train import GlmConfig, GlmForCausalLM

    torch.manual_seed(0)
    GlmForCausalLM(GlmConfig(**TINY)).save_pretrained(folder, max_shard_bytes=max_shard_bytes)
    return folder
