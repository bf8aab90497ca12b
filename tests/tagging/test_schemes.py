"""Tags of every scheme to spans and back; what is no tag, or stands where it may not, is refused with its place."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_train.errors import DataError
from glm_train.tagging.schemes import (
    Span,
    check_tags,
    detect_scheme,
    is_iob2,
    label_names,
    read_tags,
    to_iob2,
)

ENTITIES = [Span(0, 2, "PER"), Span(3, 4, "PER"), Span(4, 6, "PER")]
WRITTEN = {
    "IOB1": "I-PER I-PER O I-PER B-PER I-PER O",
    "IOB2": "B-PER I-PER O B-PER B-PER I-PER O",
    "IOBES": "B-PER E-PER O S-PER B-PER E-PER O",
    "BIOES": "B-PER E-PER O S-PER B-PER E-PER O",
    "BILOU": "B-PER L-PER O U-PER B-PER L-PER O",
    "BMES": "B-PER E-PER O S-PER B-PER E-PER O",
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_the_documented_example_reads_the_same_in_every_scheme(scheme: str) -> None:
    assert read_tags(WRITTEN[scheme].split(), scheme) == ENTITIES


def write(spans: list[Span], n: int, scheme: str) -> list[str]:
    """Tags of a scheme, made from its definition alone."""
    tags = ["O"] * n
    last, single, inside = {"BILOU": "LUI", "BMES": "ESM"}.get(scheme, "ESI")
    for index, (start, end, kind) in enumerate(spans):
        before = spans[index - 1] if index else None
        touches = before is not None and before.end == start and before.type == kind
        letters = ["B" if scheme != "IOB1" or touches else "I", *[inside] * (end - start - 1)]
        if scheme not in ("IOB1", "IOB2"):
            letters[-1] = last
            letters = [single] if end - start == 1 else letters
        tags[start:end] = [f"{letter}-{kind}" for letter in letters]
    return tags


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Span], int]:
    spans, word = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["A", "B-x", "组织_名"])))
    ):
        spans.append(Span(word + gap, word + gap + length, kind))
        word += gap + length
    return spans, word + draw(st.integers(0, 2))


@given(sentences(), st.sampled_from(sorted(WRITTEN)))
def test_entities_survive_each_scheme_and_iob2(sentence: tuple[list[Span], int], scheme: str) -> None:
    spans, n = sentence
    assert read_tags(write(spans, n, scheme), scheme) == spans
    assert to_iob2(spans, n) == write(spans, n, "IOB2")
    assert read_tags(to_iob2(spans, n), "IOB2") == spans


@given(
    st.lists(sentences(), min_size=1, max_size=5), st.sampled_from(["IOB1", "IOB2", "IOBES", "BILOU", "BMES"])
)
def test_the_scheme_found_reads_the_same_entities(
    documents: list[tuple[list[Span], int]], scheme: str
) -> None:
    """Which one is found may differ where the tags fit several, never what they say."""
    tagged = [write(spans, n, scheme) for spans, n in documents]
    found = detect_scheme(tagged)
    assert [read_tags(tags, found) for tags in tagged] == [spans for spans, _ in documents]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O B-LOC I-LOC", "B-PER"], "IOB2"),
        (["O O", ""], "IOB2"),
        (["O I-LOC I-LOC", "I-PER B-PER"], "IOB1"),
        (["I-LOC I-PER"], "IOB1"),
        (["O B-LOC E-LOC", "S-PER"], "IOBES"),
        (["U-PER"], "BILOU"),
        (["B-人名 M-人名 E-人名 O"], "BMES"),
        (["NN VB DT", "-LRB- NN"], "plain"),
    ],
)
def test_schemes_are_detected(tags: list[str], scheme: str) -> None:
    assert detect_scheme(sentence.split() for sentence in tags) == scheme


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (
            ["O O", "B-LOC O", "O I-PER"],
            ["sentence 3, word 2: 'I-PER'", "sentence 2, word 1: 'B-LOC'", "neither"],
        ),
        (["S-LOC U-PER"], ["word 1: 'S-LOC'", "word 2: 'U-PER'", "mix"]),
        (["O B-LOC", "O LOC"], ["sentence 2, word 2: 'LOC'", "'O' or B-TYPE, I-TYPE"]),
        (["O LOC-B"], ["word 2: 'LOC-B'", "write 'B-LOC'"]),
        (["O b-LOC"], ["write 'B-LOC'"]),
        (["O B_LOC"], ["write 'B-LOC'"]),
        (["o b-loc"], ["'o' is not the letter 'O'"]),
        (["b-loc i-loc"], ["write 'B-loc'"]),
        (["B-LOC o"], ["'o' is not the letter 'O'"]),
        (["B-LOC 0"], ["'0' is not the letter 'O'"]),
        (["O B-"], ["'B-' names no type"]),
        (["O I"], ["'I' names no type"]),
        (["O --"], ["'--' has no letter"]),
    ],
)
def test_tags_of_no_scheme_are_refused_with_their_place(tags: list[str], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        detect_scheme([sentence.split() for sentence in tags])
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("tag", [3, None, 1.5, "", " ", "B-X "])
def test_what_is_not_text_or_blank_is_refused(tag: object) -> None:
    with pytest.raises(DataError, match=r"sentence 1, word 2"):
        detect_scheme([["O", tag]])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"^word 2: "):
        check_tags(["O", tag], "IOB2")  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    [
        ("IOB2", "O I-LOC", "word 2: 'I-LOC' after 'O'.*begins with 'B-LOC', or name the scheme IOB1"),
        ("IOB2", "I-LOC", "word 1: 'I-LOC' at the start of the sentence"),
        ("IOB2", "B-PER I-LOC", "word 2: 'I-LOC' after 'B-PER'"),
        ("IOB2", "B-PER E-PER", "word 2: 'E-PER' is no tag of IOB2.*IOBES and BMES"),
        ("IOB1", "O B-LOC", "word 2: 'B-LOC' after 'O'.*write 'I-LOC', or name the scheme IOB2"),
        ("IOBES", "B-LOC O", "word 2: 'O' comes after 'B-LOC'.*'E-LOC'.*'S-LOC'"),
        ("IOBES", "O B-LOC", "the end of the sentence comes after 'B-LOC'"),
        ("IOBES", "B-LOC I-LOC B-LOC", "word 3"),
        ("IOBES", "S-LOC I-LOC", "word 2: 'I-LOC' after 'S-LOC'"),
        ("IOBES", "E-LOC", "word 1: 'E-LOC' at the start"),
        ("BILOU", "B-LOC E-LOC", "word 2: 'E-LOC' is no tag of BILOU.*belongs to IOBES and BMES"),
        ("BILOU", "B-LOC", "'L-LOC'.*'U-LOC'"),
        ("BMES", "B-LOC I-LOC E-LOC", "word 2: 'I-LOC' is no tag of BMES"),
    ],
)
def test_tags_that_a_scheme_does_not_allow_name_the_word_and_the_cure(
    scheme: str, tags: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_tags(tags.split(), scheme)
    with pytest.raises(DataError, match=message):
        read_tags(tags.split(), scheme)


def test_plain_tags_are_any_text() -> None:
    check_tags(["NN", "O", "I-x"], "plain")
    with pytest.raises(DataError, match="word 2"):
        check_tags(["NN", ""], "plain")


def test_a_scheme_nobody_knows_is_a_misuse() -> None:
    with pytest.raises(ValueError, match="IOB3"):
        read_tags(["O"], "IOB3")


def test_overlapping_entities_are_refused_and_bad_bounds_a_misuse() -> None:
    with pytest.raises(DataError, match=r"word 2 is part of two entities, 'LOC' and 'PER'"):
        to_iob2([Span(0, 2, "LOC"), Span(1, 3, "PER")], 3)
    for span in (Span(2, 2, "LOC"), Span(-1, 1, "LOC"), Span(2, 4, "LOC")):
        with pytest.raises(ValueError, match="does not fit"):
            to_iob2([span], 3)


def test_labels_stand_outside_first_then_by_type() -> None:
    assert label_names(["LOC", "A-B", "LOC"]) == ["O", "B-A-B", "I-A-B", "B-LOC", "I-LOC"]
    assert label_names([]) == ["O"]


def test_names_that_make_entities_are_known() -> None:
    assert is_iob2(label_names(["LOC", "组织"]))
    assert not is_iob2(["NN", "VB"])
    assert not is_iob2(["O", "I-LOC"]), "no entity could begin"


def test_an_unordered_list_of_spans_gives_the_same_tags() -> None:
    shuffled = ENTITIES[:]
    random.Random(3).shuffle(shuffled)
    assert to_iob2(shuffled, 7) == WRITTEN["IOB2"].split()
