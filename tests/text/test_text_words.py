"""Words keep the spaces before them: their pieces are those of the whole text, and none crosses a word."""

from __future__ import annotations

import gc
import json
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, processors

from glm_train.errors import DataError
from glm_train.text import words
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.text.words import cut_words, encode_words, split_words, words_encoder, words_of
from support.tiny_tokenizer import SPECIAL_TOKENS


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def changed(folder: Path, source: Path, change) -> GlmTokenizer:  # type: ignore[no-untyped-def]
    """A tokenizer like the tiny one, with a part changed."""
    backend = Tokenizer.from_str((source / "tokenizer.json").read_text())
    change(backend)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes((source / "tokenizer_config.json").read_bytes())
    return GlmTokenizer.from_pretrained(folder)


SPLITS = {
    "Anna lives  in\tParis.\n": "Anna|lives|in|Paris|.",
    "Anna's co-op, U.S.": "Anna|'|s|co|-|op|,|U|.|S|.",
    "3.14% of x_1 #tag @me": "3|.|14|%|of|x|_|1|#|tag|@|me",
    "我爱北京，Python3。": "我|爱|北|京|，|Python3|。",
    "東京タワーへ行く": "東|京|タ|ワ|ー|へ|行|く",
    "한국어 서울": "한국어|서울",
    "cafe\u0301 नमस्ते か\u3099": "cafe\u0301|नमस्ते|か\u3099",
    "👩\u200d👩\u200d👧 👍🏽❤\ufe0f 🇩🇪🇫🇷": "👩\u200d👩\u200d👧|👍🏽|❤\ufe0f|🇩🇪|🇫🇷",
    "a\u00adb\u200bc \u200b d\u200d": "a\u00adb\u200bc|\u200b|d\u200d",
    "\u0301a ..": "\u0301|a|.|.",
    " \xa0\u3000": "",
    "": "",
}


@pytest.mark.parametrize("text", SPLITS)
def test_words_of_a_raw_text(text: str) -> None:
    assert "|".join(text[start:end] for start, end in split_words(text)) == SPLITS[text]


@given(text=st.text(max_size=30))
def test_words_are_all_but_white_space(text: str) -> None:
    spans = split_words(text)
    rest = "".join(
        text[end:start]
        for (_, end), (start, _) in zip([(0, 0), *spans], [*spans, (len(text), 0)], strict=True)
    )
    assert not rest.strip()
    assert not any(c.isspace() for start, end in spans for c in text[start:end])


JOINED = {
    "Anna lives in Paris .": ["Anna", "lives", "in", "Paris", "."],
    "我爱北京，好": ["我", "爱", "北京", "，", "好"],
    "他说“好”": ["他", "说", "“", "好", "”"],
    "“ Hello ”": ["“", "Hello", "”"],
    "東京タワー": ["東京", "タワー"],
    "2018 年 Anna 北京": ["2018", "年", "Anna", "北京"],
    "한국 서울": ["한국", "서울"],
    "a   \xa0 b": ["a", " ", "\xa0", "b"],
    "": [],
}


@pytest.mark.parametrize("text", JOINED)
def test_a_text_for_words_without_one(text: str) -> None:
    joined, spans = words_of(JOINED[text])
    assert joined == text
    assert [joined[start:end] for start, end in spans] == JOINED[text]


def test_words_are_cut_where_entities_begin_and_end() -> None:
    assert cut_words([(0, 5), (6, 9)], [9, 2, 5, 6, 7, 0, 2]) == [(0, 2), (2, 5), (6, 7), (7, 9)]


ENGLISH = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.one_of(ENGLISH, st.sampled_from(["'s", "n't", "2018", "北", "…", "😀"])), max_size=10)
)
def test_pieces_are_those_of_the_whole_text(tokenizer: GlmTokenizer, tokens: list[str]) -> None:
    text = " ".join(tokens)
    spans = [(0, 0)]
    for token in tokens:
        spans.append((spans[-1][1] + (len(spans) > 1), spans[-1][1] + (len(spans) > 1) + len(token)))
    found = encode_words(tokenizer, text, spans[1:])
    assert found.ids.tolist() == tokenizer.encode_plain(text)
    assert found.ids.dtype == np.int32


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=20))
def test_pieces_decode_to_the_text_and_to_each_word(tokenizer: GlmTokenizer, text: str) -> None:
    spans = split_words(text)
    found = encode_words(tokenizer, text, spans)
    assert tokenizer.decode(found.ids) == text[: spans[-1][1] if spans else 0]
    for word, (start, end) in enumerate(spans):
        own = found.ids[found.first[word] : found.begin[word + 1]]
        assert tokenizer.decode(own).lstrip() == text[start:end].lstrip()
        assert set(found.word_of[found.begin[word] : found.begin[word + 1]]) == {word}


def test_first_piece_is_one_of_the_word_itself(tokenizer: GlmTokenizer) -> None:
    text = "in  the 2018"
    found = encode_words(tokenizer, text, split_words(text))
    pieces = [tokenizer.id_to_token(id_) for id_ in found.ids.tolist()]
    firsts = [pieces[at] for at in found.first]
    assert firsts[0][0] == "i"
    assert firsts[2] == "2"  # a number never takes the space before it
    assert pieces[found.begin[2]] == "Ġ"
    assert all(piece.strip("Ġ") for piece in firsts)


@pytest.mark.parametrize("spelling", SPECIAL_TOKENS)
def test_control_spellings_stay_text(tokenizer: GlmTokenizer, spelling: str) -> None:
    control = tokenizer.token_to_id(spelling)
    for tokens in (["say", spelling, "now"], [spelling]):
        text, spans = words_of(tokens)
        found = encode_words(tokenizer, text, spans)
        assert control not in found.ids
        assert tokenizer.decode(found.ids) == text


def test_the_models_own_tokens_stand_around(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    def change(backend: Tokenizer) -> None:
        names = ("[gMASK]", "<sop>", "<eop>")
        backend.post_processor = processors.TemplateProcessing(
            single="[gMASK] <sop> $A <eop>",
            special_tokens=[(name, backend.token_to_id(name)) for name in names],
        )

    tokenizer = changed(tmp_path, tiny_tokenizer_folder, change)
    text = "Hello , world"
    found = encode_words(tokenizer, text, [(0, 5), (6, 7), (8, 13)])
    assert found.ids.tolist() == tokenizer(text).input_ids
    assert found.word_of.tolist()[:3] == [-1, -1, 0]
    assert found.word_of.tolist()[-1] == -1
    assert found.first[0] == found.begin[0] == 2
    assert encode_words(tokenizer, "", []).ids.tolist() == tokenizer("").input_ids


def test_a_word_without_a_piece_is_refused(tmp_path: Path, tiny_tokenizer_folder: Path) -> None:
    tokenizer = changed(
        tmp_path,
        tiny_tokenizer_folder,
        lambda backend: setattr(backend, "normalizer", normalizers.StripAccents()),
    )
    with pytest.raises(DataError, match="the word '\u0301' gives no token"):
        encode_words(tokenizer, "a \u0301", [(0, 1), (2, 3)])


@pytest.mark.parametrize("spans", [[(0, 1)], [(0, 3), (3, 3)], [(4, 7), (0, 3)], [(0, 3), (2, 7)], []])
def test_spans_that_leave_something_out_are_misuse(
    tokenizer: GlmTokenizer, spans: list[tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match="word"):
        encode_words(tokenizer, "abc def", spans)


def test_memory_is_bounded_and_goes_with_its_tokenizer(
    tiny_tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    monkeypatch.setattr(words, "MAX_WORDS", 3)
    first = encode_words(tokenizer, "a b c d e a", split_words("a b c d e a"))
    memory = words_encoder(tokenizer).memory
    assert 1 <= len(memory) <= 3
    encode_words(tokenizer, "x" * 100, [(0, 100)])
    assert not any("x" * 100 in key for key in memory)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert encode_words(copy, "a b c d e a", split_words("a b c d e a")).ids.tolist() == first.ids.tolist()
    alive = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert alive() is None


def test_halves_of_characters_are_refused(tokenizer: GlmTokenizer) -> None:
    text = json.loads('"a \\ud800"')
    with pytest.raises(DataError, match="half of a surrogate pair"):
        encode_words(tokenizer, text, split_words(text))
