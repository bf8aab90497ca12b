"""Entities with their places, tags of tokens, long documents, and files without labels."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glm_train import GlmForTokenClassification, GlmTokenizer
from glm_train.data.token_examples import token_windows
from glm_train.data.token_records import TokenRecord
from glm_train.errors import ConfigError, DataError
from glm_train.predict.run import predict
from glm_train.predict.tokens import tagged
from glm_train.tagging.decode import allowed_transitions
from support.classifier_folder import NER, make_classifier, read_lines, write_lines

TEXT = "Anna Lee, 27, lives in\tBeijing 北京。 🎉 <|user|> naïve"


def logits(words: list[str]) -> np.ndarray:
    """Scores (W, L) that say one label of `NER` loudly for each word."""
    scores = np.zeros((len(words), len(NER)), np.float32)
    scores[np.arange(len(words)), [NER.index(word) for word in words]] = 3.0
    return scores


def record(*words: str) -> TokenRecord:
    spans, at = [], 0
    for word in words:
        spans.append((at, at + len(word)))
        at += len(word) + 1
    return TokenRecord(" ".join(words), spans)


def test_entities_of_a_text_and_of_tokens() -> None:
    scores = logits(["B-PER", "I-PER", "O", "O", "B-LOC"])
    who = record("Anna", "Lee", "sang", "in", "Rome")
    p = round(float(np.exp(3) / (np.exp(3) + 4)), 6)
    anna = {"type": "PER", "score": p, "text": "Anna Lee"}
    rome = {"type": "LOC", "score": p, "text": "Rome"}
    assert tagged(who, scores, NER, of_tokens=False) == {
        "entities": [{"start": 0, "end": 8, **anna}, {"start": 17, "end": 21, **rome}]
    }
    found = tagged(who, scores, NER, of_tokens=True)
    assert found["tokens"] == ["Anna", "Lee", "sang", "in", "Rome"]
    assert found["tags"] == ["B-PER", "I-PER", "O", "O", "B-LOC"]
    assert found["entities"] == [{"start": 0, "end": 2, **anna}, {"start": 4, "end": 5, **rome}]


def test_the_score_of_an_entity_is_the_mean_of_its_tags() -> None:
    scores = logits(["B-PER", "I-PER"])
    scores[1] *= 2
    chances = np.exp([3, 6]) / (np.exp([3, 6]) + 4)
    (entity,) = tagged(record("Anna", "Lee"), scores, NER, of_tokens=True)["entities"]
    assert entity["score"] == pytest.approx(chances.mean(), abs=1e-6)


def test_a_tag_never_goes_on_with_what_has_not_begun() -> None:
    """The likeliest tags alone would be I-PER after O; the best that make sense make it B-PER or O."""
    scores = logits(["O", "I-PER", "I-PER"])
    scores[1, NER.index("B-PER")] = 2.5
    assert tagged(record("a", "b", "c"), scores, NER, of_tokens=True)["tags"] == ["O", "B-PER", "I-PER"]


def test_places_in_the_original_text(tagger: Path, tmp_path: Path) -> None:
    """Also behind tabs, wide characters, emoji and spellings of control tokens."""
    texts = [TEXT, f"  {TEXT}\n\n{TEXT}", "", "   ", "\u2028"]
    source = write_lines(tmp_path / "in.jsonl", [{"text": text} for text in texts])
    summary = predict(str(tagger), source, tmp_path / "out.jsonl")
    found = read_lines(tmp_path / "out.jsonl")
    assert (summary.predicted, summary.faulty) == (5, 0)
    assert sum(len(one["entities"]) for one in found) > 8
    for text, one in zip(texts, found, strict=True):
        for entity in one["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]] == entity["text"].strip() != ""
            assert entity["type"] in ("LOC", "PER")
            assert 0 < entity["score"] <= 1
        assert all(a["end"] <= b["start"] for a, b in pairwise(one["entities"]))
    assert [one["entities"] for one in found[2:]] == [[], [], []]


def test_tokens_with_and_without_tags_give_the_same(tagger: Path, tmp_path: Path) -> None:
    tokens = ["EU", "rejects", "北", "京", "."]
    tagged_file = tmp_path / "a.conll"
    tagged_file.write_text(
        "".join(f"{t} X O\n" for t in tokens) + "\n# id = 3\nBo\tB\tO\n".replace("\t", " ")
    )
    bare = tmp_path / "b.conll"
    bare.write_text("-DOCSTART-\n\n" + "\n".join(tokens) + "\n\n\nBo\n", encoding="utf-8")
    crlf = tmp_path / "c.txt"
    crlf.write_bytes(("\ufeff" + "".join(f"O\t{t}\r\n" for t in tokens) + "\r\nO\tBo").encode())
    records = write_lines(tmp_path / "d.jsonl", [{"tokens": tokens}, {"tokens": ["Bo"], "tags": "any"}])
    answers = []
    for path, settings in (
        (tagged_file, []),
        (bare, []),
        (crlf, ["data.format=conll", "data.token_column=1"]),
        (records, []),
    ):
        predict(str(tagger), path, tmp_path / "out", settings, overwrite=True)
        answers.append([{**one, "line": 0} for one in read_lines(tmp_path / "out")])
    assert answers[1:] == answers[:1] * 3
    first, second = answers[0]
    assert (first["tokens"], second["tokens"]) == (tokens, ["Bo"])
    assert len(first["tags"]) == 5
    assert [entity["type"] for entity in first["entities"]] == [
        tag[2:] for tag in first["tags"] if tag[0] == "B"
    ]


def scores_of(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()


def test_a_long_document_is_answered_whole(tagger: Path, tmp_path: Path) -> None:
    """Each word with the scores that a plain forward of its own window gives, and one best path through all."""
    words = [f"word{i}" for i in range(120)]
    model, tokenizer = (
        GlmForTokenClassification.from_pretrained(tagger).eval(),
        GlmTokenizer.from_pretrained(tagger),
    )
    document = record(*words)
    found = token_windows(tokenizer, document.text, document.words, 40, 12)
    assert len(found) > 5
    scores = np.full((120, len(NER)), np.nan, np.float32)
    for window in found:
        scores[window.words] = scores_of(model, window.ids)[window.positions]
    source = write_lines(tmp_path / "in.jsonl", [{"tokens": words}])
    predict(str(tagger), source, tmp_path / "out.jsonl", ["data.max_length=40", "data.overlap=12"])
    (answer,) = read_lines(tmp_path / "out.jsonl")
    expected = tagged(document, scores, NER, of_tokens=True)
    assert (answer["tokens"], answer["tags"]) == (words, expected["tags"])
    allowed = allowed_transitions(NER)
    for before, after in pairwise(answer["tags"]):
        assert allowed[NER.index(before), NER.index(after)]


def test_equal_to_a_plain_forward(tagger: Path, tmp_path: Path) -> None:
    """Of the pieces that the words have in the text, read at the first one of each that is not a blank."""
    words = ["Hello", "Beijing", "weather", "today", "xyzzy"]
    tokenizer = GlmTokenizer.from_pretrained(tagger)
    ids: list[int] = []
    firsts = []
    for number, word in enumerate(words):
        pieces = tokenizer.encode_plain(f" {word}" if number else word)
        firsts.append(
            len(ids) + next(i for i, piece in enumerate(pieces) if tokenizer.decode([piece]).strip())
        )
        ids += pieces
    scores = scores_of(GlmForTokenClassification.from_pretrained(tagger).eval(), np.array(ids))
    source = write_lines(tmp_path / "in.jsonl", [{"tokens": words}])
    predict(str(tagger), source, tmp_path / "out.jsonl")
    (found,) = read_lines(tmp_path / "out.jsonl")
    expected = tagged(record(*words), scores[firsts], NER, of_tokens=True)
    assert found["tags"] == expected["tags"]
    assert [one["score"] for one in found["entities"]] == pytest.approx(
        [one["score"] for one in expected["entities"]], abs=2e-6
    )


def test_labels_that_make_no_entities(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "model", tiny_tokenizer_folder, ("DET", "NOUN", "VERB"))
    source = write_lines(tmp_path / "in.jsonl", [{"text": "You, are"}, {"tokens": ["a b", "c"]}])
    predict(str(folder), source, tmp_path / "out.jsonl")
    text, tokens = read_lines(tmp_path / "out.jsonl")
    assert text["tokens"] == ["You", ",", "are"]
    assert text["offsets"] == [[0, 3], [3, 4], [5, 8]]
    assert len(text["tags"]) == 3
    assert tokens["tokens"] == ["a b", "c"]
    assert tokens["entities"] == []


def test_a_record_with_text_and_tokens(tagger: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"text": "a b", "tokens": ["a", "b"]}])
    for settings, of_tokens in ([], True), (["data.format=entities"], False), (["data.format=tokens"], True):
        predict(str(tagger), source, tmp_path / "out", settings, overwrite=True)
        assert ("tokens" in read_lines(tmp_path / "out")[0]) == of_tokens


def test_faulty_sentences_have_their_place(tagger: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.conll"
    source.write_bytes(b"a X O\n\nb X\nc X O\n\n\xff X O\n\nd X O\n")
    summary = predict(str(tagger), source, tmp_path / "out")
    found = read_lines(tmp_path / "out")
    assert [(one["line"], one.get("tokens")) for one in found] == [
        (1, ["a"]),
        (3, None),
        (6, None),
        (8, ["d"]),
    ]
    assert (summary.predicted, summary.faulty) == (2, 2)


@pytest.mark.parametrize(
    ("name", "text", "settings", "error", "message"),
    [
        ("a.log", "a\n", [], DataError, "files that end in '.log' are not read"),
        ("a.conll", "\n\n", [], DataError, "no line with a token"),
        ("a.conll", "a b\n", ["data.token_column=2"], DataError, "data.token_column=2"),
        ("a.jsonl", '{"text": "a"}\n', ["data.format=conl"], ConfigError, "Did you mean 'conll'"),
        ("a.jsonl", '{"text": "a"}\n', ["data.format=tokens"], DataError, "no `tokens`"),
        (
            "a.jsonl",
            '{"text": "a"}\n',
            ["data.text_key=x"],
            ConfigError,
            "data.text_key is read by data=sequence",
        ),
        ("a.jsonl", '{"text": "a"}\n', ["data.overlap=3", "data.max_length=3"], ConfigError, "data.overlap"),
        ("a.jsonl", '{"text": "a"}\n', ["data.tag_column=3"], ConfigError, "`predict` does not read it"),
        ("a.jsonl", '{"tokens": "a"}\n', [], DataError, "tokens"),
    ],
)
def test_what_is_refused(
    tagger: Path, tmp_path: Path, name: str, text: str, settings: list[str], error: Any, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(error) as refused:
        predict(str(tagger), tmp_path / name, tmp_path / "out.jsonl", settings)
    assert message in str(refused.value)
    assert not (tmp_path / "out.jsonl").exists()
