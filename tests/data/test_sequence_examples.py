"""Texts with labels as tokenised examples: tokens as inference has them, both texts of a pair, what is cut."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from glm_train.data.encode import TOO_LONG
from glm_train.data.sequence_examples import (
    SequenceEncoder,
    SequenceKeys,
    longest_first,
    prepare_sequence,
    sequence_ids,
)
from glm_train.data.sequence_labels import SequenceLabels, discover_labels
from glm_train.errors import ConfigError, DataError
from glm_train.text.tokenizer import GlmTokenizer

LABELS = SequenceLabels(("neg", "pos"))


@pytest.fixture(scope="module")
def plain(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    """Like most GLM-4 folders: nothing is put before a text."""
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


@pytest.fixture(scope="module")
def prefixed(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    """Like a folder that was converted with `--use_post_processor`: `[gMASK]<sop>` before a text."""
    folder = tmp_path_factory.mktemp("prefixed") / "tokenizer"
    shutil.copytree(tiny_tokenizer_folder, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    prefix = [{"SpecialToken": {"id": token, "type_id": 0}} for token in ("[gMASK]", "<sop>")]
    first, second = ({"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}})
    template = {
        "type": "TemplateProcessing",
        "single": [*prefix, first],
        "pair": [*prefix, first, second],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[gMASK]", "<sop>")
        },
    }
    content["post_processor"] = {"type": "Sequence", "processors": [content["post_processor"], template]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return GlmTokenizer.from_pretrained(folder)


@pytest.fixture(params=["plain", "prefixed"])
def tokenizer(request: pytest.FixtureRequest) -> GlmTokenizer:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", ["Hello, world", " a\n\nb ", "北京今天晴", "x"])
def test_ids_are_those_of_the_tokenizer(tokenizer: GlmTokenizer, text: str) -> None:
    assert sequence_ids(tokenizer, text) == (tokenizer(text)["input_ids"], False)


@pytest.mark.parametrize("pair", [("Is it?", "No."), (" a ", "b\n"), ("你好", "晴"), ("a\n", "\n b")])
def test_pair_is_one_document(tokenizer: GlmTokenizer, pair: tuple[str, str]) -> None:
    ids, cut = sequence_ids(tokenizer, *pair)
    assert ids == tokenizer("\n".join(pair))["input_ids"]
    assert not cut


@pytest.mark.parametrize(("side", "truncation"), [("right", "end"), ("left", "start")])
def test_ids_are_those_of_transformers(
    tokenizer: GlmTokenizer, tmp_path: Path, side: str, truncation: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path, truncation_side=side)
    for text in ("Hello, world", " a\n\nb ", "北京今天晴，三十一度。", "x" * 50):
        assert sequence_ids(tokenizer, text)[0] == theirs(text)["input_ids"]
        cut = theirs(text, truncation=True, max_length=5)["input_ids"]
        assert sequence_ids(tokenizer, text, None, 5, truncation)[0] == cut
        assert sequence_ids(tokenizer, text, "why?")[0] == theirs(text + "\nwhy?")["input_ids"]


def test_control_spellings_stay_text(tokenizer: GlmTokenizer) -> None:
    ids, _ = sequence_ids(tokenizer, "a <|user|> b", "<|endoftext|>")
    body = ids[len(ids) - len(tokenizer.encode_plain("a <|user|> b\n<|endoftext|>")) :]
    assert not set(body) & set(tokenizer.special_tokens.values())
    assert tokenizer.decode(body) == "a <|user|> b\n<|endoftext|>"


def test_prefix_always_stays(prefixed: GlmTokenizer) -> None:
    prefix = [prefixed.special_tokens["[gMASK]"], prefixed.special_tokens["<sop>"]]
    text = "one two three four five six seven"
    body = prefixed.encode_plain(text)
    assert sequence_ids(prefixed, text, None, 6, "end") == (prefix + body[:4], True)
    assert sequence_ids(prefixed, text, None, 6, "start") == (prefix + body[-4:], True)
    assert sequence_ids(prefixed, text, None, len(body) + 2) == (prefix + body, False)


def test_longer_text_of_a_pair_is_cut_first(prefixed: GlmTokenizer) -> None:
    prefix = [prefixed.special_tokens["[gMASK]"], prefixed.special_tokens["<sop>"]]
    long, short, newline = "b c d e f g h i j", "x y", prefixed.encode_plain("\n")
    ids, other = prefixed.encode_plain(long), prefixed.encode_plain(short)
    room = 5
    limit = len(prefix) + room + len(newline) + len(other)
    assert sequence_ids(prefixed, long, short, limit)[0] == prefix + ids[:room] + newline + other
    assert sequence_ids(prefixed, short, long, limit)[0] == prefix + other + newline + ids[:room]
    assert sequence_ids(prefixed, long, short, limit, "start")[0] == prefix + ids[-room:] + newline + other


@pytest.mark.parametrize("truncation", ["end", "start"])
def test_no_example_is_longer(tokenizer: GlmTokenizer, truncation: str) -> None:
    for limit in range(6, 40):
        ids, cut = sequence_ids(tokenizer, "Hello, how are you?" * 3, "你好" * 5, limit, truncation)
        assert len(ids) == limit
        assert cut


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_longest_first_is_that_of_tokenizers(n: int, m: int, room: int) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.enable_truncation(room, strategy="longest_first")
    ids = words.encode("a " * n, "b " * m).ids
    assert longest_first(n, m, room) == (ids.count(0), ids.count(1))


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


RECORDS = [
    {"text": "Hello", "label": "pos"},
    {"text": "one two three four five six seven eight", "label": "neg"},
    {"text": "No", "label": 1},
]


def test_prepared(plain: GlmTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", RECORDS)
    labels = discover_labels([file], labels=["neg", "pos"], cache_dir=tmp_path / "cache")
    stores = [prepare_sequence([file], plain, labels, cache_dir=tmp_path / "cache") for _ in range(2)]
    for store in stores:
        assert [store[i][1].tolist() for i in range(3)] == [[1], [0], [1]]
        assert plain.decode(store[1][0].tolist()) == RECORDS[1]["text"]
        assert store.trained.tolist() == [1, 1, 1]
        assert store.source(2) == (str(file), 3)
    assert [store.report.cache_hit for store in stores] == [False, True]


def test_settings_decide_the_cache(plain: GlmTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", RECORDS[:2])
    options: list[dict[str, Any]] = [
        {},
        {"labels": SequenceLabels(("pos", "neg"))},
        {"labels": SequenceLabels(("neg", "pos"), "multi_label")},
        {"keys": SequenceKeys(separator="|")},
        {"max_length": 8},
        {"max_length": 8, "truncation": "start"},
    ]
    for option in options:
        store = prepare_sequence([file], plain, **{"labels": LABELS, "cache_dir": tmp_path / "c", **option})
        assert not store.report.cache_hit, option


@pytest.mark.parametrize(("truncation", "kept", "cut"), [("end", 3, 1), ("start", 3, 1), ("drop", 2, 0)])
def test_too_long(plain: GlmTokenizer, tmp_path: Path, truncation: str, kept: int, cut: int) -> None:
    file = write(tmp_path / "t.jsonl", [*RECORDS[:2], {"text": "No", "label": "pos"}])
    store = prepare_sequence(
        [file], plain, LABELS, max_length=6, truncation=truncation, cache_dir=tmp_path / "cache"
    )
    assert (len(store), store.report.cut) == (kept, cut)
    assert max(store.lengths) <= 6
    assert store.report.dropped == ({TOO_LONG: 1} if truncation == "drop" else {})


def test_too_long_is_an_error_where_that_is_asked_for(plain: GlmTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "t.jsonl", RECORDS)
    with pytest.raises(DataError, match=r"t.jsonl:2: the text has \d+ tokens, and data.max_length is 6"):
        prepare_sequence([file], plain, LABELS, max_length=6, truncation="error", cache_dir=tmp_path / "c")


def test_unknown_label_of_a_validation_file(plain: GlmTokenizer, tmp_path: Path) -> None:
    file = write(tmp_path / "v.jsonl", [{"text": "a", "label": "neg"}, {"text": "b", "label": "possi"}])
    message = r"v.jsonl:2: the label 'possi' is not among the 2 labels: 'neg', 'pos'. Did you mean 'pos'\?"
    with pytest.raises(DataError, match=message):
        prepare_sequence([file], plain, LABELS, cache_dir=tmp_path / "c")


def test_wrong_label_of_a_text_that_is_too_long_is_found(plain: GlmTokenizer) -> None:
    encoder = SequenceEncoder(plain, LABELS, max_length=6, truncation="drop")
    with pytest.raises(DataError, match="the label 'x'"):
        encoder({"text": "one two three four five six seven", "label": "x"})


@pytest.mark.parametrize("streaming", [False, True])
def test_several_labels_and_numbers(plain: GlmTokenizer, tmp_path: Path, streaming: bool) -> None:
    several = write(tmp_path / "s.jsonl", [{"text": "a", "label": ["y", "x"]}, {"text": "b", "label": []}])
    numbers = write(tmp_path / "r.jsonl", [{"text": "a", "label": 0.1}, {"text": "b", "label": "-2"}])
    found = []
    for file in (several, numbers):
        labels = discover_labels([file], cache_dir=tmp_path)
        store = prepare_sequence([file], plain, labels, cache_dir=tmp_path, streaming=streaming)
        found.append(np.stack([store[i][1] for i in range(2)]))
    assert found[0].tolist() == [[1, 1], [0, 0]]
    assert found[1].view(np.float32).tolist() == [[np.float32(0.1)], [-2.0]]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["pos", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["text", "Text ", "text_pair", "label"]), _JSON),
    st.sampled_from(["single_label", "multi_label", "regression"]),
    st.sampled_from([None, "|"]),
)
@settings(max_examples=300, deadline=None)
def test_any_record_is_an_example_or_a_data_error(
    plain: GlmTokenizer, value: dict[str, Any], problem: str, separator: str | None
) -> None:
    labels = SequenceLabels(("neg", "pos"), problem, ids_allowed=True)
    encoder = SequenceEncoder(plain, labels, SequenceKeys(separator=separator), max_length=8)
    try:
        (example,) = encoder(value)
    except DataError:
        return
    assert 0 < len(example.input_ids) <= 8
    assert len(example.labels) == (1 if problem == "single_label" else 2)
    if problem == "regression":
        assert np.isfinite(example.labels.view(np.float32)).all()
    else:
        assert set(example.labels.tolist()) <= {0, 1}


def test_encoder_is_picklable(plain: GlmTokenizer) -> None:
    encoder = SequenceEncoder(plain, LABELS, SequenceKeys(pair="other"), 32)
    copy = pickle.loads(pickle.dumps(encoder))
    value = {"text": "a", "other": "b", "label": "pos"}
    (one,), (other,) = encoder(value), copy(value)
    assert (one.input_ids.tolist(), one.labels.tolist()) == (other.input_ids.tolist(), other.labels.tolist())
    assert copy.settings() == encoder.settings()


@pytest.mark.parametrize("options", [{"max_length": 1}, {"truncation": "ends"}])
def test_settings_that_are_wrong(plain: GlmTokenizer, options: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.(max_length=1 leaves no room|truncation='ends' is unknown)"
    ):
        SequenceEncoder(plain, LABELS, **options)


def test_smallest_length_has_room_for_two_texts(tokenizer: GlmTokenizer) -> None:
    limit = len(tokenizer("a")["input_ids"]) + 2
    ids, _ = sequence_ids(tokenizer, "aaa bbb", "ccc ddd", limit)
    assert len(ids) == limit
    SequenceEncoder(tokenizer, LABELS, max_length=limit)
    with pytest.raises(ConfigError):
        SequenceEncoder(tokenizer, LABELS, max_length=limit - 1)
