"""The tokens of a document in windows that the model can read. Words are never cut, and each is answered once.

Words with 2, 3, 1, 2 and 3 tokens in windows of 8, which share 4; `=` is what a window answers:

    tokens       a a b b b c d d e e e
    window 0     = = = = = = = =
    window 1               . . . = = =
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glm_train.errors import ConfigError, DataError
from glm_train.tagging.windows import windows
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.text.words import EncodedWords, Span, encode_words, words_encoder


class TokenWindow(NamedTuple):
    """A window of a document: `ids` (T,) int32 with the model's prefix; the `words` (n,) that are labelled or predicted
    here, and the `positions` (n,) of their first pieces in `ids`."""

    ids: np.ndarray
    words: np.ndarray
    positions: np.ndarray


def token_windows(
    tokenizer: GlmTokenizer,
    text: str,
    spans: Sequence[Span],
    max_length: int | None = None,
    overlap: int | None = None,
    *,
    causal: bool = False,
) -> list[TokenWindow]:
    """The tokens of a text's words, in windows of at most `max_length` with the prefix; each word in exactly one.

    Args:
        spans: the words, (start, end) in characters, in order. None of them gives no window.
        max_length: None makes one window of all.
        overlap: tokens that two neighbours share at least; default a quarter of `max_length`. No word is cut: windows
            end between words, and share as much as the longest word has.
        causal: the model sees only what is before a token: each word is answered where most is before it, instead of
            where the nearer edge is farthest.

    Raises:
        ConfigError: `max_length` has no room behind the prefix, or `overlap` is not below that room.
        DataError: a word has more tokens than a window.
    """
    return [window for window, _ in windows_with_ends(tokenizer, text, spans, max_length, overlap, causal)]


def windows_with_ends(
    tokenizer: GlmTokenizer,
    text: str,
    spans: Sequence[Span],
    max_length: int | None,
    overlap: int | None,
    causal: bool = False,
) -> list[tuple[TokenWindow, np.ndarray]]:
    """The windows, with the positions (n,) behind the last pieces of their words."""
    room, overlap = window_room(tokenizer, max_length, overlap)
    if not spans:
        return []
    encoded = encode_words(tokenizer, text, spans)
    if room is None or len(encoded.ids) <= (max_length or 0):
        every = np.arange(len(encoded.first), dtype=np.int32)
        return [(TokenWindow(encoded.ids, every, encoded.first), encoded.begin[1:])]
    longest = int(np.diff(encoded.begin).max())
    if longest > room:
        word = int(np.diff(encoded.begin).argmax())
        raise DataError(
            f"word {word + 1}, {text[slice(*spans[word])][:40]!r}, has {longest} tokens, and a window has room for"
            f" {room}. Raise data.max_length, or write spaces where words end."
        )
    return _cut(encoded, room, max(overlap, longest - 1), causal)


def window_room(
    tokenizer: GlmTokenizer, max_length: int | None, overlap: int | None
) -> tuple[int | None, int]:
    """The tokens of a window without the model's own, and how many two neighbours share."""
    if max_length is None:
        return None, 0
    own = len(words_encoder(tokenizer).prefix) + len(words_encoder(tokenizer).suffix)
    room = max_length - own
    if room < 1:
        raise ConfigError(
            f"data.max_length={max_length} leaves no room for a word: the model's prefix has {own} tokens. Raise it."
        )
    if overlap is None:
        return room, min(max_length // 4, room - 1)
    if not 0 <= overlap < room:
        raise ConfigError(
            f"data.overlap={overlap}: must be at least 0 and below {room}, the tokens of a window without the model's"
            f" {own}. Lower it, or raise data.max_length={max_length}."
        )
    return room, overlap


def _cut(
    encoded: EncodedWords, room: int, overlap: int, causal: bool
) -> list[tuple[TokenWindow, np.ndarray]]:
    """Each word goes to the window in which the nearer edge that counts is farthest from its first piece, the earlier
    of two."""
    offset = int(encoded.begin[0])
    begin, first = encoded.begin - offset, encoded.first - offset
    pieces = encoded.ids[offset : offset + int(begin[-1])]
    prefix, suffix = encoded.ids[:offset], encoded.ids[offset + len(pieces) :]
    ranges = _whole_words(begin, room, overlap)
    best, owner = np.full(len(first), -1), np.zeros(len(first), np.int64)
    for number, (low, high) in enumerate(ranges):
        here = slice(low, high)
        nearer = first[here] - begin[low]
        if not causal:
            nearer = np.minimum(nearer, begin[high] - 1 - first[here])
        better = nearer > best[here]
        best[here] = np.where(better, nearer, best[here])
        owner[here] = np.where(better, number, owner[here])
    found = []
    for number, (low, high) in enumerate(ranges):
        words = np.flatnonzero(owner[low:high] == number) + low
        if len(words):
            ids = np.concatenate([prefix, pieces[begin[low] : begin[high]], suffix])
            shift = offset - int(begin[low])
            window = TokenWindow(ids, words.astype(np.int32), first[words] + shift)
            found.append((window, begin[words + 1] + shift))
    return found


def _whole_words(begin: np.ndarray, room: int, overlap: int) -> list[tuple[int, int]]:
    """The words of each window, from and to. A window begins with the first word that begins in it, and has as many
    words from there as it has room for."""
    ranges: list[tuple[int, int]] = []
    for cut in windows(int(begin[-1]), room, overlap):
        low = int(np.searchsorted(begin, cut.begin))
        high = int(np.searchsorted(begin, begin[low] + room, side="right")) - 1
        if not ranges or low > ranges[-1][0]:
            ranges.append((low, high))
    return ranges
