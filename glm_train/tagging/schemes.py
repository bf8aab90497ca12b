"""Tags to spans and back. A tag is `O`, or a letter, `-`, and the type of the entity that the word is part of.

    words   Anna   Lee    met    Bo     Li     Wei    here
    entity  [PER       ]         [PER]  [PER       ]
    IOB1    I-PER  I-PER  O      I-PER  B-PER  I-PER  O      B- only where an entity touches one of its own type
    IOB2    B-PER  I-PER  O      B-PER  B-PER  I-PER  O      B- at every entity's first word
    IOBES   B-PER  E-PER  O      S-PER  B-PER  E-PER  O      also E- at its last, S- alone; also spelled BIOES
    BILOU   B-PER  L-PER  O      U-PER  B-PER  L-PER  O      the same with L- for E- and U- for S-
    BMES    B-PER  E-PER  O      S-PER  B-PER  E-PER  O      the same with M- for I-, usual for Chinese

`plain` tags are classes of single words (parts of speech): they make no spans.
Reading is strict: a tag that its scheme does not allow is a `DataError`, whose place the caller adds. Words and
sentences are counted from 1 in messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from glm_train.errors import DataError

#: The letters of each scheme, as what they mean in IOBES.
SCHEMES: dict[str, dict[str, str]] = {
    "IOB1": {"B": "B", "I": "I"},
    "IOB2": {"B": "B", "I": "I"},
    "IOBES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BIOES": {"B": "B", "I": "I", "E": "E", "S": "S"},
    "BILOU": {"B": "B", "I": "I", "L": "E", "U": "S"},
    "BMES": {"B": "B", "M": "I", "E": "E", "S": "S"},
}
PLAIN = "plain"
_LOWER = re.compile(r"o|[bi][-_].+")
OUTSIDE = "O"
_LETTERS = "BIESLUM"


class Span(NamedTuple):
    """An entity: words `start` to `end` (exclusive), counted from 0."""

    start: int
    end: int
    type: str


def read_tags(tags: Sequence[str], scheme: str) -> list[Span]:
    """The entities of one sentence, in order.

    Raises:
        DataError: a tag that is none, or that may not stand where it does: see `check_tags`.
    """
    spans: list[Span] = []
    start = 0
    parsed = _parse(tags, scheme)
    for word, (letter, type_) in enumerate(parsed):
        if letter == OUTSIDE:
            continue
        before = parsed[word - 1] if word else (OUTSIDE, "")
        if letter in "BS" or (scheme == "IOB1" and before[1] != type_):
            start = word
        after = parsed[word + 1] if word + 1 < len(parsed) else (OUTSIDE, "")
        # with E and S the end is said; else an entity ends before whatever does not go on with it
        if letter in "ES" or after[0] in (OUTSIDE, "B", "S") or after[1] != type_:
            spans.append(Span(start, word + 1, type_))
    return spans


def check_tags(tags: Sequence[str], scheme: str) -> None:
    """Raise a `DataError` that names the first word whose tag `scheme` does not allow, and the cure."""
    if scheme == PLAIN:
        for word, tag in enumerate(tags):
            if not isinstance(tag, str) or not tag:
                raise DataError(f"word {word + 1}: {tag!r} is no tag; every word needs the name of its class")
        return
    _parse(tags, scheme)


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme that all `sentences` follow: a key of `SCHEMES`, or `plain`.

    IOB2 where every I- goes on with an entity of its type, also where there are no entities at all; IOB1 where every
    B- touches an entity of its type; one of IOBES, BILOU and BMES where E-, S-, L-, U- or M- occur; plain where no tag
    is `O` or has a letter. All sentences are read: the last one may decide.

    Raises:
        DataError: no scheme allows all of the tags. Names the sentence and the word of what rules out each.
    """
    first: dict[
        str, tuple[int, int, str]
    ] = {}  # what was met -> where for the first time: sentence, word, tag
    for number, tags in enumerate(sentences, 1):
        before: tuple[str, str] = (OUTSIDE, "")
        for word, tag in enumerate(tags, 1):
            parts = _split(tag)
            if not isinstance(tag, str) or not tag or tag != tag.strip():
                raise DataError(f"sentence {number}, word {word}: {_no_tag(tag, 'IOB2')}")
            if _LOWER.fullmatch(tag):  # else it would be a class of single words, and find no entities
                raise DataError(f"sentence {number}, word {word}: {_no_tag(tag, 'IOB2')}")
            for fact in _facts(parts, before):
                first.setdefault(fact, (number, word, tag))
            before = parts or (OUTSIDE, "")
    if "plain" in first:
        if len(first) == 1:
            return PLAIN
        sentence, word, tag = first["plain"]
        raise DataError(f"sentence {sentence}, word {word}: {_no_tag(tag, 'IOB2')}")
    return _scheme_of(first)


def to_iob2(spans: Iterable[Span], n: int) -> list[str]:
    """The IOB2 tags of `n` words: `[Span(1, 3, "LOC")]`, 4 gives `O B-LOC I-LOC O`.

    Raises:
        DataError: two spans share a word. ValueError: a span is empty or outside of the sentence.
    """
    tags = [OUTSIDE] * n
    for start, end, type_ in spans:
        if not 0 <= start < end <= n:
            raise ValueError(f"an entity of words {start} to {end} does not fit a sentence of {n} words")
        for word in range(start, end):
            if tags[word] != OUTSIDE:
                raise DataError(
                    f"word {word + 1} is part of two entities, {tags[word][2:]!r} and {type_!r}; entities may not"
                    " overlap, so keep one of them"
                )
            tags[word] = f"{'B' if word == start else 'I'}-{type_}"
    return tags


def label_names(types: Iterable[str]) -> list[str]:
    """The labels of a tagger for these types of entities: `O`, then B- and I- of each type in sorted order."""
    return [OUTSIDE, *(f"{letter}-{type_}" for type_ in sorted(set(types)) for letter in "BI")]


def is_iob2(names: Iterable[str]) -> bool:
    """Whether names are `O`, `B-TYPE` and `I-TYPE` alone, each I- beside its B-, so that they make entities."""
    names = set(names)
    return all(
        name == OUTSIDE or name[:2] == "B-" or (name[:2] == "I-" and f"B-{name[2:]}" in names)
        for name in names
    )


def _parse(tags: Sequence[str], scheme: str) -> list[tuple[str, str]]:
    """Each tag as (`O` or a letter of IOBES, type), each allowed after the one before it."""
    if scheme not in SCHEMES:
        raise ValueError(f"{scheme!r} is not one of {', '.join(SCHEMES)}")
    letters = SCHEMES[scheme]
    parsed: list[tuple[str, str]] = []
    for word, tag in enumerate(tags):
        parts = _split(tag)
        if parts is None or (parts[0] != OUTSIDE and parts[0] not in letters):
            raise DataError(f"word {word + 1}: {_no_tag(tag, scheme)}")
        parsed.append((letters.get(parts[0], OUTSIDE), parts[1]))
    before, ends = (OUTSIDE, ""), "E" in letters.values()
    for word, now in enumerate([*parsed, (OUTSIDE, "")]):
        follows = before[0] != OUTSIDE and before[1] == now[1] and not (ends and before[0] in "ES")
        open_ = ends and before[0] in ("B", "I")
        here = f"word {word + 1}: {tags[word]!r}" if word < len(tags) else "the end of the sentence"
        after = f"after {tags[word - 1]!r}" if word else "at the start of the sentence"
        if open_ and not (follows and now[0] in "IE"):
            end = next(name for name, meaning in letters.items() if meaning == "E")
            single = next(name for name, meaning in letters.items() if meaning == "S")
            raise DataError(
                f"{here} comes {after}, whose entity has no end; in {scheme} its last word is '{end}-{before[1]}', and"
                f" a single word '{single}-{before[1]}'"
            )
        if scheme == "IOB1" and now[0] == "B" and not follows:
            raise DataError(
                f"{here} {after}: in IOB1, B- stands only where an entity touches one of its own type; write"
                f" 'I-{now[1]}', or name the scheme IOB2"
            )
        if scheme != "IOB1" and now[0] in ("I", "E") and not follows:
            other = ", or name the scheme IOB1" if scheme == "IOB2" else ""
            raise DataError(
                f"{here} {after} goes on with an entity that has not begun; in {scheme} it begins with"
                f" 'B-{now[1]}'{other}"
            )
        before = now
    return parsed


def _split(tag: object) -> tuple[str, str] | None:
    """`B-LOC` as ("B", "LOC"), `O` as ("O", ""), None where it is neither."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if (
        not isinstance(tag, str)
        or len(tag) < 3
        or tag[1] != "-"
        or tag[0] not in _LETTERS
        or tag != tag.strip()
    ):
        return None
    return tag[0], tag[2:]


def _facts(parts: tuple[str, str] | None, before: tuple[str, str]) -> list[str]:
    """What a tag after another says about the scheme."""
    if parts is None:
        return ["plain"]
    letter, type_ = parts
    follows = before[0] != OUTSIDE and before[1] == type_
    facts = [letter]
    if letter == "I" and not follows:
        facts.append("not IOB2")
    if letter == "B" and not follows:
        facts.append("not IOB1")
    return facts


def _scheme_of(first: dict[str, tuple[int, int, str]]) -> str:
    letters = {fact for fact in first if len(fact) == 1} - {OUTSIDE}
    if letters <= {"B", "I"}:
        if "not IOB2" not in first:
            return "IOB2"
        if "not IOB1" not in first:
            return "IOB1"
        raise DataError(
            f"the tags follow neither IOB2 nor IOB1. {_place(first['not IOB2'])} begins an entity, which in IOB2 begins"
            f" with B-; {_place(first['not IOB1'])} touches no entity of its type, as B- in IOB1 does. Write B- at the"
            " first word of every entity"
        )
    for scheme in ("IOBES", "BILOU", "BMES"):
        if letters <= SCHEMES[scheme].keys():
            return scheme
    odd = "; ".join(_place(first[letter]) for letter in sorted(letters - {"B", "I"}))
    raise DataError(
        f"the tags mix the letters of several schemes: {odd}. Use those of one: B- I- (IOB2), B- I- E- S- (IOBES),"
        " B- I- L- U- (BILOU) or B- M- E- S- (BMES)"
    )


def _place(found: tuple[int, int, str]) -> str:
    sentence, word, tag = found
    return f"sentence {sentence}, word {word}: {tag!r}"


def _no_tag(tag: object, scheme: str) -> str:
    """Why `tag` is no tag of a scheme, and what to write instead."""
    letters = SCHEMES[scheme]
    allowed = f"'O' or {', '.join(f'{letter}-TYPE' for letter in letters)} ({scheme})"
    if not isinstance(tag, str):
        return f"a tag is text, found {tag!r} ({type(tag).__name__}); write {allowed}"
    if not tag.strip() or tag != tag.strip():
        return f"{tag!r} is empty or has blanks around it; write {allowed}"
    known = _LETTERS if scheme == "IOB2" else "".join(letters)
    if parts := _split(tag):
        others = [name for name, has in SCHEMES.items() if parts[0] in has and name != "BIOES"]
        return f"{tag!r} is no tag of {scheme}, where {allowed} are; '{parts[0]}-' belongs to {' and '.join(others)}"
    if tag.upper() == OUTSIDE or tag == "0":
        return f"{tag!r} is not the letter 'O'; a word outside of all entities has the tag 'O'"
    if tag[-2:-1] in ("-", "_") and tag[-1] in known:
        return f"{tag!r} has its letter behind; write '{tag[-1]}-{tag[:-2]}'"
    if len(tag) > 2 and tag[0].upper() in known and tag[1] in "-_":
        return f"{tag!r} is no tag; write '{tag[0].upper()}-{tag[2:]}'"
    if tag[0] in known and not tag[1:].strip("-_"):
        return f"{tag!r} names no type of entity; write '{tag[0]}-TYPE', where TYPE is any name"
    return f"{tag!r} has no letter before its type; write {allowed}"
