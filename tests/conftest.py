"""Shared fixtures. Nothing is downloaded: tokenizers and models are made here, tiny, once a test run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # operations of a few numbers spend their time waking threads


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache of prepared data, nor does a fixture of whatever scope."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLM_TRAIN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer that has GLM-4's control tokens, and GLM-4-0414's chat template."""
    from support.tiny_tokenizer import make_tokenizer_folder

    return make_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """A random model folder of 50 thousand parameters, with its tokenizer. Read only."""
    from support.model_folder import make_model_folder

    return make_model_folder(tmp_path_factory.mktemp("models") / "tiny", tiny_tokenizer_folder)


@pytest.fixture(scope="session")
def chat_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven short chats in English and Chinese, of one and two turns. Read only."""
    from support.model_folder import write_chats

    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl")
