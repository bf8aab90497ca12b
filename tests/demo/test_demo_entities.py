"""Reading the entity corpus: only valid IOB2 passes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from glm_train.demo import entities, sources
from glm_train.errors import ConfigError


@pytest.mark.parametrize(
    ("tags", "valid"),
    [
        (["O", "B-LOC", "I-LOC", "O"], True),
        (["B-LOC", "B-LOC", "I-LOC"], True),
        ([], True),
        (["I-LOC"], False),
        (["B-LOC", "I-ORG"], False),
        (["B-LOC", "O", "I-LOC"], False),
        (["B-"], False),
        (["B"], False),
        (["E-LOC"], False),
        (["o"], False),
    ],
)
def test_is_iob2(tags: list[str], valid: bool) -> None:
    assert entities.is_iob2(tags) is valid


def test_sentences_that_cannot_be_used_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = "東京\tOTHER\t名詞\tB-LOC\nで\tHIRAG\t助詞\tO\n"
    wrong = "東京\tOTHER\tI-LOC\n"
    spaced = "東 京\tOTHER\tB-LOC\n"
    one_column = "東京\n"
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "iob_sents.txt").write_text("\n".join([good, wrong, spaced, one_column, good, ""]))
    monkeypatch.setattr(sources.Source, "folder", lambda self: tmp_path)
    dropped: Counter[str] = Counter()
    sentences = entities.read_sentences(dropped)
    assert sentences == [[("東京", "B-LOC"), ("で", "O")]]
    assert sum(dropped.values()) == 4
    assert entities.conll(sentences) == "東京\tB-LOC\nで\tO\n\n"
    assert entities.text(sentences[0]) == "東京で"


def test_an_empty_corpus_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "iob_sents.txt").write_text("\n")
    monkeypatch.setattr(sources.Source, "folder", lambda self: tmp_path)
    with pytest.raises(ConfigError, match="no tagged sentence"):
        entities.read_sentences(Counter())
