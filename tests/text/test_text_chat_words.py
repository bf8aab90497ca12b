"""The remembered words are the tokenizer's own, character for character, and the ids too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_chat_cases import tokenizer_of
from tokenizers import Regex, pre_tokenizers

from glm_train.text import chat_words
from glm_train.text.chat_words import GLM_SPLIT, WordEncoder, word_encoder
from glm_train.text.rendering import Rendered
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS

LETTERS, NUMBERS, OTHERS = chat_words._characters()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("words"))


def test_every_sure_character_is_cut_as_the_tokenizer_cuts_it() -> None:
    split = pre_tokenizers.Split(Regex(GLM_SPLIT), behavior="isolated")
    codes = sorted(
        [*LETTERS, *NUMBERS, *OTHERS, *map(ord, " \t\x0b\x0c\x85\xa0\u1680\u2003\u2028\u202f\u3000")]
    )
    assert len(codes) > 50_000
    for at in range(0, len(codes), 4096):
        text = "".join(f"a{c} {c}1{c}\n{c}'{c}s  {c}.{c}" for c in map(chr, codes[at : at + 4096]))
        assert chat_words._word_pattern().findall(text) == [word for word, _ in split.pre_tokenize_str(text)]


ALPHABET = st.one_of(
    st.sampled_from(
        ["'s", "'LL", "'ſ", " ", "  ", "\n", "\r\n", "\t", "1234", "½", "K", "\u180e", "北京", "😀", "é"]
    ),
    st.sampled_from(SPECIAL_TOKENS),
    st.text(max_size=4),
    st.text("abc 1\n'.", max_size=6),
)


@settings(max_examples=200, deadline=None)
@given(text=st.lists(ALPHABET, max_size=12).map("".join))
def test_ids_are_those_of_the_tokenizer(tokenizer: GlmTokenizer, text: str) -> None:
    encoder = word_encoder(tokenizer)
    assert encoder is not None
    assert encoder.encode(text) == encoder.encode(text) == tokenizer.encode_plain(text)


@settings(max_examples=300, deadline=None)
@given(text=st.lists(ALPHABET, max_size=12).map("".join))
def test_a_rendered_chat_is_cut_at_its_control_tokens(tokenizer: GlmTokenizer, text: str) -> None:
    encoder = word_encoder(tokenizer)
    assert encoder is not None
    ids = encoder.encode_rendered(text)
    assert ids is None or ids.tolist() == tokenizer.encode_rendered(Rendered(text))
    if text.isascii():
        assert ids is not None


def test_a_mark_in_the_text_is_no_control_token(tokenizer: GlmTokenizer) -> None:
    encoder = word_encoder(tokenizer)
    assert encoder is not None
    for mark in chat_words._MARKS:
        assert encoder.encode_rendered(f"<|user|>\n{mark}") is None
        assert encoder.encode(f"a{mark}") == tokenizer.encode_plain(f"a{mark}")


def test_control_tokens_inside_one_another_get_no_marks() -> None:
    for spellings in (["<a>", "<a><b>"], ["<<a", "<a>"], ["ab", "ba"], [f"<{n}>" for n in range(99)]):
        encoder = WordEncoder(lambda text: [1] * len(text), dict.fromkeys(spellings, 7))
        assert encoder.encode_rendered("text") is None


def test_only_new_words_reach_the_tokenizer() -> None:
    asked: list[str] = []

    def encode_plain(text: str) -> list[int]:
        asked.append(text)
        return [len(text)]

    encoder = WordEncoder(encode_plain)
    long = "x" * (chat_words.MAX_WORD_CHARS + 1)
    assert encoder.encode(f"go and go {long}") == [2, 4, 3, len(long) + 1]
    assert encoder.encode(f" go {long}") == [3, len(long) + 1]
    assert asked == ["go", " and", " go", f" {long}", f" {long}"]
    assert encoder.encode("go \u180e go") == [7], "the whole text, where a character is unsure"


def test_the_memory_is_bounded(tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_words, "MAX_WORDS", 3)
    encoder = WordEncoder(tokenizer.encode_plain)
    text = "one two three four five one two"
    assert encoder.encode(text) == tokenizer.encode_plain(text)
    assert len(encoder._words) <= 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"\\p{N}{1,3}", r"\\p{N}"),
        ('"behavior": "Isolated"', '"behavior": "Removed"'),
        ('"normalizer": null', '"normalizer": {"type": "NFC"}'),
        ('"use_regex": false', '"use_regex": true'),
        ('"dropout": null', '"dropout": 0.5'),
    ],
)
def test_tokenizers_of_another_kind_are_left_alone(tmp_path: Path, old: str, new: str) -> None:
    tokenizer_of(tmp_path)
    path = tmp_path / "tokenizer.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
    assert old in text
    path.write_text(re.sub(re.escape(old), new.replace("\\", "\\\\"), text), encoding="utf-8")
    other = GlmTokenizer.from_pretrained(tmp_path)
    assert word_encoder(other) is None


def test_a_further_added_token_is_not_cut_through(tmp_path: Path) -> None:
    tokenizer_of(tmp_path)
    path = tmp_path / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    last = value["added_tokens"][-1]
    value["added_tokens"].append({**last, "id": last["id"] + 1, "content": "<think>", "special": False})
    path.write_text(json.dumps(value), encoding="utf-8")
    other = GlmTokenizer.from_pretrained(tmp_path)
    assert len(other.encode_plain("a<think>b")) == 3
    assert word_encoder(other) is None
