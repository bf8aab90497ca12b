"""Windows never cut a word, and answer each word once, where it sees the most around it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from glm_train.data.token_windows import token_windows, windows_with_ends
from glm_train.errors import ConfigError, DataError
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.text.words import encode_words, words_of


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    """One with GLM-4's prefix of two tokens."""
    folder = tmp_path_factory.mktemp("prefix")
    backend = Tokenizer.from_str((tiny_tokenizer_folder / "tokenizer.json").read_text())
    backend.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[gMASK]", "<sop>")],
    )
    backend.save(str(folder / "tokenizer.json"))
    config = (tiny_tokenizer_folder / "tokenizer_config.json").read_bytes()
    (folder / "tokenizer_config.json").write_bytes(config)
    return GlmTokenizer.from_pretrained(folder)


def glued(*lengths: int) -> tuple[str, list[tuple[int, int]]]:
    """Words of `x` without spaces: a token a letter."""
    ends = np.cumsum(lengths).tolist()
    return "x" * ends[-1], list(zip([0, *ends], ends, strict=False))


def test_the_drawing(tokenizer: GlmTokenizer) -> None:
    found = token_windows(tokenizer, *glued(2, 3, 1, 2, 3), 10, 4)
    assert [(len(ids) - 2, words.tolist(), positions.tolist()) for ids, words, positions in found] == [
        (8, [0, 1, 2, 3], [2, 4, 7, 8]),
        (6, [4], [5]),
    ]


@pytest.mark.parametrize(("max_length", "count"), [(None, 1), (32, 1), (31, 2)])
def test_one_window_where_it_is_enough(tokenizer: GlmTokenizer, max_length: int | None, count: int) -> None:
    found = token_windows(tokenizer, *glued(*[1] * 30), max_length)
    assert len(found) == count
    assert found[0].ids.tolist()[:2] == tokenizer("").input_ids
    assert sum(len(window.words) for window in found) == 30


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=40),
    spaced=st.booleans(),
    size=st.integers(9, 30),
    overlap=st.one_of(st.none(), st.integers(0, 6)),
)
def test_every_word_is_whole_and_answered_once(
    tokenizer: GlmTokenizer, lengths: list[int], spaced: bool, size: int, overlap: int | None
) -> None:
    text, spans = words_of(["x" * n for n in lengths]) if spaced else glued(*lengths)
    whole = encode_words(tokenizer, text, spans)
    found = windows_with_ends(tokenizer, text, spans, size, overlap)
    assert [word for (_, words, _), _ in found for word in words] == list(range(len(lengths)))
    for (ids, words, positions), ends in found:
        assert len(ids) <= size
        assert ids[:2].tolist() == whole.ids[:2].tolist()
        for word, begin, end in zip(words, positions, ends, strict=True):
            own = whole.ids[whole.first[word] : whole.begin[word + 1]]
            assert ids[begin:end].tolist() == own.tolist()


@settings(max_examples=100, deadline=None)
@given(count=st.integers(20, 80), size=st.integers(8, 20), overlap=st.integers(0, 5), causal=st.booleans())
def test_words_are_answered_where_they_see_the_most(
    tokenizer: GlmTokenizer, count: int, size: int, overlap: int, causal: bool
) -> None:
    """With words of one token each the windows of all are known, and with them what each word might have had."""
    found = token_windows(tokenizer, *glued(*[1] * count), size + 2, overlap, causal=causal)
    ranges = []  # of each window, its first and last word
    for ids, words, positions in found:
        first = int(words[0] - (positions[0] - 2))
        ranges.append((first, first + len(ids) - 3))
    for (_, words, _), (low, high) in zip(found, ranges, strict=True):
        for word in words.tolist():
            seen = [word - a if causal else min(word - a, b - word) for a, b in ranges if a <= word <= b]
            assert max(seen) == (word - low if causal else min(word - low, high - word))
    for (_, before), (after, _) in pairwise(ranges):
        assert before - after + 1 >= overlap


def test_no_words_no_windows(tokenizer: GlmTokenizer) -> None:
    assert token_windows(tokenizer, " ", [], 10) == []


def test_a_word_longer_than_a_window_is_refused(tokenizer: GlmTokenizer) -> None:
    with pytest.raises(DataError, match=r"word 2, 'x+', has 9 tokens, and a window has room for 8\. Raise"):
        token_windows(tokenizer, *glued(1, 9, 1), 10)


@pytest.mark.parametrize(
    ("max_length", "overlap", "message"),
    [
        (2, None, "leaves no room for a word: the model's prefix has 2 tokens"),
        (0, None, "leaves no room"),
        (10, 8, "data.overlap=8: must be at least 0 and below 8"),
        (10, -1, "data.overlap=-1"),
    ],
)
def test_settings_without_room(
    tokenizer: GlmTokenizer, max_length: int, overlap: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        token_windows(tokenizer, *glued(1), max_length, overlap)
