"""One finished demo for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.demo.folder import make_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(folder)
    return folder
