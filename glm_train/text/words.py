"""Words, and the tokens of a text word by word: what a tagger labels.

A word is encoded together with the white space before it, because GLM's byte-level pieces differ with and without a
leading space. So no piece crosses a word, and words that stand in a text as tokens do in English, one space between
them, get exactly the pieces that the whole text gets:

    text      Anna lives in  Paris            spans (0, 4) (5, 10) (11, 13) (15, 20)
    encoded   "Anna" " lives" " in" "  Paris"
    pieces     Anna   _lives   _in   _ _Paris
    first      0      1        2       4           of a word: the first piece with a character of the word itself

Spellings of control tokens are ordinary text here: nothing that is in a text becomes one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from glm_train.errors import DataError
from glm_train.text.backend import checked
from glm_train.text.chat_words import MAX_WORD_CHARS, MAX_WORDS
from glm_train.text.tokenizer import GlmTokenizer

# Written without spaces, as the inside of a character class: Han with its radicals and strokes, and kana.
_HAN_KANA = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u309d-\u309f\u30a1-\u30fa"
    "\u30fc-\u30ff\u31c0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001aff0-\U0001b16f"
    "\U00020000-\U0003fffd"
)
# Their punctuation, which is as wide as they are; and marks that they share with scripts that have spaces.
_WIDE_MARKS = (
    "\u3000-\u3004\u3008-\u3020\u3030\u303d-\u303f\u3099-\u309c\u30a0\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
_WIDE_CHARACTER = re.compile(f"[{_HAN_KANA}{_WIDE_MARKS}]")
_SHARED_MARKS = re.compile("[\u00b7\u2014\u2018\u2019\u201c\u201d\u2026]")

Span = tuple[int, int]


def split_words(text: str) -> list[Span]:
    """The words of a raw text, as (start, end) in characters, in order; white space is in none.

    Runs of letters and digits, each Han and kana character by itself, each punctuation mark and symbol by itself.
    What joins the character before it stays with it: accents, vowel signs, the parts of one emoji.
    """
    return [match.span() for match in _word_pattern().finditer(text)]


def words_of(tokens: Sequence[str]) -> tuple[str, list[Span]]:
    """A text for words that have none, and where they stand in it.

    One space between two words, and nothing between two that Chinese or Japanese writes without:
    `["我", "爱", "北京", "Anna", "Lee"]` is `我爱北京 Anna Lee`.
    """
    parts: list[str] = []
    spans: list[Span] = []
    at, before = 0, _SPACED
    for token in tokens:
        after = _spacing(token[:1])
        if parts and before + after < _JOINED:
            parts.append(" ")
            at += 1
        parts.append(token)
        spans.append((at, at + len(token)))
        at += len(token)
        before = _spacing(token[-1:])
    return "".join(parts), spans


# Nothing is put between two unspaced characters, or between one and a mark that it shares.
_SPACED, _SHARED, _WIDE, _JOINED = 0, 1, 2, 3


def _spacing(character: str) -> int:
    if character.isascii():
        return _SPACED
    if _WIDE_CHARACTER.match(character):
        return _WIDE
    return _SHARED if _SHARED_MARKS.match(character) else _SPACED


def cut_words(spans: Iterable[Span], cuts: Iterable[int]) -> list[Span]:
    """The words, each divided at those `cuts` (positions in the text) that fall inside it."""
    inner = sorted(set(cuts))
    found: list[Span] = []
    at = 0
    for start, end in spans:
        while at < len(inner) and inner[at] <= start:
            at += 1
        while at < len(inner) and inner[at] < end:
            found.append((start, inner[at]))
            start = inner[at]
            at += 1
        found.append((start, end))
    return found


@dataclass(frozen=True)
class EncodedWords:
    """The tokens of a text's words.

    `ids` (T,) int32, with the tokens that the model's own prefix (and suffix) has; `word_of` (T,) int32, of each token
    its word, -1 for prefix and suffix; `first` (W,) int32, of each word its first piece; `begin` (W+1,) int32, where
    the tokens of each word begin, white space before it included, and where the last one's end.
    """

    ids: np.ndarray
    first: np.ndarray
    word_of: np.ndarray
    begin: np.ndarray


def encode_words(tokenizer: GlmTokenizer, text: str, spans: Sequence[Span]) -> EncodedWords:
    """Encode `text` word by word. White space behind the last word is left out.

    Args:
        spans: (start, end) of the words, in order; between them is white space or nothing.

    Raises:
        DataError: a word gives no token, because the tokenizer's normalizer drops all of it.
        ValueError: the spans are empty or overlap, or leave out something of the text.
    """
    words = words_encoder(tokenizer)
    ids: list[int] = list(words.prefix)
    first, begin = [], []
    memory, at = words.memory, 0
    for start, end in spans:
        gap = text[at:start]
        if start >= end or start < at or (gap and not gap.isspace()):
            raise ValueError(f"the word {start} to {end} does not follow the character {at}, or is empty")
        # The two are told apart by a character that is no white space.
        before, *pieces = memory[f"{gap}\0{text[start:end]}"]
        begin.append(len(ids))
        first.append(len(ids) + before)
        ids += pieces
        at = end
    if text[at:].strip():
        raise ValueError(f"no word holds {text[at:].strip()[:40]!r}")
    begin.append(len(ids))
    lengths = [begin[0], *np.diff(begin), len(words.suffix)]
    numbers = [-1, *range(len(first)), -1]
    return EncodedWords(
        np.asarray([*ids, *words.suffix], np.int32),
        np.asarray(first, np.int32),
        np.repeat(np.asarray(numbers, np.int32), lengths),
        np.asarray(begin, np.int32),
    )


def words_encoder(tokenizer: GlmTokenizer) -> WordsEncoder:
    """What `encode_words` keeps of a tokenizer: made once, and as long-lived as the tokenizer."""
    found = _encoders.get(tokenizer)
    if found is None:
        found = _encoders[tokenizer] = WordsEncoder(tokenizer)
    return found


class WordsEncoder:
    """The model's own tokens around a text, and a memory of words."""

    def __init__(self, tokenizer: GlmTokenizer) -> None:
        plain = tokenizer.encode("a", add_special_tokens=False)
        whole = tokenizer("a")["input_ids"]
        at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
        self.prefix, self.suffix = whole[:at], whole[at + len(plain) :]
        self.memory = _Memory(tokenizer._plain)


class _Memory(dict[str, list[int]]):
    """White space, NUL, word -> how many of its pieces are white space alone, and its pieces.

    It keeps the vocabulary alive and not the tokenizer, so that it goes when the tokenizer does.
    """

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, key: str) -> list[int]:
        gap, _, word = key.partition("\0")
        encoding = checked(self._backend.encode, gap + word, add_special_tokens=False)
        before = next((n for n, (_, end) in enumerate(encoding.offsets) if end > len(gap)), None)
        if before is None:
            raise DataError(f"the word {word[:40]!r} gives no token. Remove it.")
        found = [before, *encoding.ids]
        if len(key) <= MAX_WORD_CHARS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[key] = found
        return found


_encoders: WeakKeyDictionary[GlmTokenizer, WordsEncoder] = WeakKeyDictionary()


@cache
def _word_pattern() -> re.Pattern[str]:
    """One word. Python's `\\w` knows neither accents nor vowel signs, so what joins is written out."""
    joins = _joining_characters()
    return re.compile(
        rf"[{_HAN_KANA}][{joins}]*"
        rf"|(?:[^\W_{_HAN_KANA}][{joins}\u200d]*)+"
        "|[\U0001f1e6-\U0001f1ff]{2}"
        rf"|(?:[^\s\w]|_)[{joins}]*(?:\u200d+[^\s\w]?[{joins}]*)*"
    )


def _joining_characters() -> str:
    """Marks (accents, vowel signs, variation selectors), what is not seen, and the skin tones of emoji.

    But not the joiner of emoji, after which comes one more of them.
    """
    codes = [0xAD, *range(0x300, 0x20000), *range(0xE0000, 0xE0200)]
    kinds = ("Mn", "Mc", "Me", "Cf")
    tones = range(0x1F3FB, 0x1F400)
    return "".join(
        chr(code)
        for code in codes
        if (unicodedata.category(chr(code)) in kinds or code in tones) and code != 0x200D
    )
