"""Windows cover a document, share what was asked, and leave each position where it has the most context."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.tagging.windows import Window, windows


@given(st.integers(0, 300), st.integers(1, 60), st.data())
def test_every_position_is_owned_once_where_it_sees_most(length: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    made = windows(length, size, overlap)
    assert all(w.end - w.begin == min(size, length) for w in made)
    assert all(w.begin <= w.own_begin < w.own_end <= w.end for w in made), "each answers something"
    owner = [index for index, w in enumerate(made) for _ in range(w.own_begin, w.own_end)]
    assert [p for w in made for p in range(w.own_begin, w.own_end)] == list(range(length))
    for before, after in pairwise(made):
        assert before.begin < after.begin
        assert before.end - after.begin >= overlap

    def context(position: int, w: Window) -> int:
        return min(position - w.begin, w.end - 1 - position)

    for position, index in enumerate(owner):
        assert index == max(range(len(made)), key=lambda i: (context(position, made[i]), -i))


def test_no_window_is_superfluous() -> None:
    assert len(windows(100, 40, 10)) == 3
    assert len(windows(101, 40, 10)) == 4


def test_the_documented_drawing() -> None:
    assert windows(10, 6, 3) == [Window(0, 6, 0, 5), Window(3, 9, 5, 7), Window(4, 10, 7, 10)]


def test_a_short_document_is_one_window_and_an_empty_one_none() -> None:
    assert windows(5, 5, 2) == [Window(0, 5, 0, 5)]
    assert windows(0, 5, 2) == []


@pytest.mark.parametrize(
    ("length", "size", "overlap"), [(9, 5, 5), (9, 5, 6), (9, 0, 0), (9, 5, -1), (-1, 5, 1)]
)
def test_windows_that_cannot_be_are_a_misuse(length: int, size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot be made"):
        windows(length, size, overlap)
