"""Models for prediction, made once; read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.classifier_folder import NER, make_classifier


@pytest.fixture(scope="session")
def tagger(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    return make_classifier(tmp_path_factory.mktemp("models") / "tagger", tiny_tokenizer_folder, NER)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    path = tmp_path_factory.mktemp("models") / "single"
    return make_classifier(path, tiny_tokenizer_folder, ("neg", "neu", "pos"), "single_label_classification")


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    path = tmp_path_factory.mktemp("models") / "several"
    return make_classifier(path, tiny_tokenizer_folder, ("a", "b", "c"), "multi_label_classification")
