"""The ids of ordinary text, from a memory of its words: the tokenizer's own ids, several times sooner.

A GLM-4 tokenizer cuts text into words with a regular expression and encodes each word alone. Nearly all its time
goes into that expression, and most words were met before. So the same words are cut here, with Python's `re`, and
encoded by the tokenizer only where they are new:

    "Hello, world\\n"   ->   "Hello"  ","  " world"  "\\n"   ->   [9703]  [11]  [1879]  [198]

Only for tokenizers with exactly GLM-4's expression, and for text of characters of which every version of Unicode
says the same. Everything else goes through the tokenizer as it is.

A whole rendered chat is cut at once: each control token in it is first replaced by a mark, one private-use character
that is a word by itself, and behind which text begins and ends as it does at the borders of a text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from array import array
from collections.abc import Callable, Mapping
from functools import cache
from itertools import chain
from typing import Any

from glm_train.text.tokenizer import GlmTokenizer

# GLM-4's, which is cl100k's.
GLM_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MAX_WORDS = 1 << 16
MAX_WORD_CHARS = 24

_SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_EMOJI = range(0x1F000, 0x1FB00)
_MARKS = [chr(code) for code in range(0xF100, 0xF120)]  # of control tokens, by their number
# A blank once and no longer; letters that are an `s` or a `k` where case does not matter; and marks, which mean
# nothing in ordinary text.
_UNSURE = frozenset(["\u180e", "\u017f", "\u212a", *_MARKS])


def word_encoder(tokenizer: GlmTokenizer) -> WordEncoder | None:
    """The encoder with a memory, where the tokenizer is one of GLM-4's kind."""
    if not _splits_as_glm(tokenizer):
        return None
    return WordEncoder(tokenizer.encode_plain, tokenizer.special_tokens)


class WordEncoder:
    """Texts to ids. `encode_plain` gives the ids of any text, and of a text the ids of its words; `control` are the
    ids of the control tokens by their spellings."""

    def __init__(
        self, encode_plain: Callable[[str], list[int]], control: Mapping[str, int] | None = None
    ) -> None:
        self._encode_plain = encode_plain
        self._marks = _marks_of(control or {})
        marked = {mark: _packed([(control or {})[spelling]]) for spelling, mark in self._marks.items()}
        self._words = _Memory(encode_plain, marked)
        self._find_words = _word_pattern().findall
        self._find_marked = _word_pattern("".join(self._marks.values())).findall

    def encode(self, text: str) -> list[int]:
        """The ids of ordinary text."""
        words = self._find_words(text)
        if sum(map(len, words)) < len(text):  # an unsure character, of which the pattern knows nothing
            return self._encode_plain(text)
        return self._ids_of(words).tolist()

    def encode_rendered(self, text: str) -> array[int] | None:
        """The ids of a template's text, in which each spelling of a control token is that token; None where the text
        has an unsure character, or the control tokens cannot be told apart by marks."""
        if not self._marks or any(map(text.__contains__, self._marks.values())):
            return None
        for spelling, mark in self._marks.items():
            text = text.replace(spelling, mark)
        words = self._find_marked(text)
        return None if sum(map(len, words)) < len(text) else self._ids_of(words)

    def _ids_of(self, words: list[str]) -> array[int]:
        return array("i", b"".join(map(self._words.__getitem__, words)))


def _packed(ids: list[int]) -> bytes:
    """The ids as `array("i")` holds them."""
    return array("i", ids).tobytes()


def _marks_of(control: Mapping[str, int]) -> dict[str, str]:
    """A mark for each control token; none where one may begin inside another, so that it matters which is found."""
    firsts = "".join({spelling[:1] for spelling in control})
    if len(control) > len(_MARKS) or any(c in firsts for spelling in control for c in spelling[1:]):
        return {}
    return dict(zip(control, _MARKS, strict=False))


class _Memory(dict[str, bytes]):
    """Word -> packed ids, of the words that are short enough to come again. `marked` are those of the marks."""

    def __init__(self, encode: Callable[[str], list[int]], marked: dict[str, bytes]) -> None:
        super().__init__()
        self._encode, self._marked = encode, marked

    def __missing__(self, word: str) -> bytes:
        ids = self._marked.get(word) or _packed(self._encode(word))
        if len(word) <= MAX_WORD_CHARS:
            if len(self) >= MAX_WORDS:
                self.clear()
            self[word] = ids
        return ids


def _splits_as_glm(tokenizer: GlmTokenizer) -> bool:
    """Whether words are cut by GLM-4's expression and nothing else, and have always the same ids."""
    backend: Any = getattr(tokenizer, "_backend", None)
    if backend is None or backend.normalizer is not None or backend.pre_tokenizer is None:
        return False
    if getattr(backend.model, "dropout", None):
        return False
    # A further added token would be cut out of words.
    if len(tokenizer) - tokenizer.vocab_size != len(tokenizer.special_tokens):
        return False
    described = json.loads(backend.pre_tokenizer.__getstate__())
    match described:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return bool(pattern == GLM_SPLIT)
    return False


@cache
def _word_pattern(marks: str = "") -> re.Pattern[str]:
    """GLM-4's expression, with the characters of each class written out. Others match nothing. Each of `marks` is a
    word, and the end of the text before it."""
    letters, numbers, others = (_ranges(characters) for characters in _characters())
    joins = _SPACES.replace("\n", "").replace("\r", "") + others
    return re.compile(
        "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
        f"|[{joins}]?[{letters}]+|[{numbers}]{{1,3}}| ?[{others}]+[\\r\\n]*"
        f"|[{_SPACES}]*[\\r\\n]+|[{_SPACES}]+(?![^{_SPACES}{marks}])|[{_SPACES}]+"
        + (f"|[{marks}]" if marks else "")
    )


def _characters() -> tuple[list[int], list[int], list[int]]:
    """Code points of letters, of numbers, and of all else but white space, as far as they are sure.

    A letter or number is sure if it was one in Unicode 3.2 already. Everything else is sure if it has been
    assigned: before, it was unassigned, which is neither a letter nor a number.
    """
    old, new = unicodedata.ucd_3_2_0.category, unicodedata.category
    spaces = re.compile(f"[{_SPACES}]")
    found: dict[str, list[int]] = {"L": [], "N": [], "": []}
    for code in chain(range(0xD800), range(0xE000, 0x10000), _EMOJI):
        character = chr(code)
        kind = new(character)
        if character in _UNSURE or kind == "Cn" or spaces.match(character):
            continue
        if kind[0] not in "LN":
            if old(character)[0] not in "LN":
                found[""].append(code)
        elif old(character)[0] == kind[0]:
            found[kind[0]].append(code)
    return found["L"], found["N"], found[""]


def _ranges(codes: list[int]) -> str:
    """Ascending code points as the inside of a character class."""
    breaks = [i for i in range(1, len(codes)) if codes[i] != codes[i - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(codes)]
    return "".join(f"\\U{codes[a]:08x}-\\U{codes[b - 1]:08x}" for a, b in zip(starts, ends, strict=True))
