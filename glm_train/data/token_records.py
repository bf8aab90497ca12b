"""Records of token classification: words with a tag each, or a text with entities by character.

    {"tokens": ["Anna", "Lee", "sings"], "tags": ["B-PER", "I-PER", "O"]}
    {"text": "Anna Lee sings", "entities": [{"start": 0, "end": 8, "label": "PER"}]}

A sentence of a CoNLL file is a record of the first kind. `ner_tags`, the name that data sets of the hub have, stands
for `tags`. Offsets count characters (Unicode code points, as Python's `len` does), from 0, the end exclusive.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from glm_train.data.formats.values import json_in, kind
from glm_train.data.readers.conll import Sentence
from glm_train.errors import ConfigError, DataError, nearest
from glm_train.tagging.schemes import Span
from glm_train.text.words import cut_words, split_words, words_of

TOKEN_FORMATS = ("auto", "conll", "tokens", "entities")
TAG_KEYS = ("tags", "ner_tags")
# What other tools call these keys.
_SYNONYMS = {
    "tokens": ("words", "word", "token", "tokenized_text", "sentence_tokens"),
    "tags": ("labels", "label", "ner", "iob_tags", "bio_tags", "tag", "named_entities"),
    "text": ("sentence", "content", "data", "document", "input"),
    "entities": ("spans", "annotations", "entity", "ents", "label", "labels", "ner"),
    "start": ("start_offset", "begin", "start_char", "start_index", "startOffset", "from", "offset", "b"),
    "end": ("end_offset", "stop", "end_char", "end_index", "endOffset", "to", "e"),
    "label": ("type", "entity", "tag", "entity_group", "entity_type", "class", "category", "labels", "name"),
}


@dataclass(frozen=True)
class TokenRecord:
    """The words of one record, as they stand in its text, and what is labelled.

    `tags` are as written, one a word; `entities` are spans of words. Both are None where nothing is labelled.
    """

    text: str
    words: list[tuple[int, int]]
    tags: list[str] | None = None
    entities: list[Span] | None = None


def parse_tokens(
    value: dict[str, Any], format: str = "auto", *, tag_names: Sequence[str] = (), labelled: bool = True
) -> TokenRecord:
    """The words and labels of one record.

    Args:
        format: a name in `TOKEN_FORMATS`; "auto" recognises each record's by its keys.
        tag_names: what tags that are numbers mean, from 0.
        labelled: False reads the words alone, and whatever labels there are is not looked at.

    Raises:
        DataError: without a place; a key is missing or null, a value is none that it may be, entities overlap.
    """
    if (_detect(value, labelled) if format == "auto" else format) == "entities":
        return _parse_entities(value, labelled)
    tokens = _list(_needed(value, "tokens"), "`tokens`", "words")
    for number, token in enumerate(tokens, 1):
        if not isinstance(token, str) or not token:
            what = "an empty text" if token == "" else kind(token)
            raise DataError(
                f"word {number} of `tokens` is {what}. Write each word, and leave out empty ones."
            )
    text, words = words_of(tokens)
    return TokenRecord(text, words, _tags(value, tokens, tag_names) if labelled else None)


def _detect(value: dict[str, Any], labelled: bool) -> str:
    tagged = any(value.get(key) is not None for key in TAG_KEYS)
    tokens, text = value.get("tokens") is not None, value.get("text") is not None
    if labelled:
        if tokens and tagged and text and value.get("entities") is not None:
            raise DataError(
                "the record may be read by its `tokens` or by its `text`. Set data.format to tokens or entities."
            )
        if tokens and tagged:
            return "tokens"
        if text and "entities" in value:
            return "entities"
    if tokens:
        return "tokens"
    if text:
        return "entities"
    known = ("tokens", "tags", "text", "entities")
    empty = [key for key in known if key in value and value[key] is None]
    if empty:
        raise DataError(f"`{empty[0]}` is null. Fill it, or remove the record.")
    needed = "`tokens` with `tags` or `text` with `entities`" if labelled else "`tokens` or `text`"
    keys = ", ".join(map(repr, value)) or "no keys"
    meant = [hint for key in ("tokens", "text") if (hint := _meant(value, key))]
    cure = "".join(meant[:1]) or " A file of columns is read with data.format=conll."
    raise DataError(f"the record needs {needed}, and has {keys}.{cure}")


def _needed(value: dict[str, Any], key: str) -> Any:
    if value.get(key) is None:
        if key in value:
            raise DataError(f"`{key}` is null. Fill it, or remove the record.")
        raise DataError(f"the record has no `{key}`.{_meant(value, key) or f' Add `{key}`.'}")
    return value[key]


def _meant(value: dict[str, Any], key: str) -> str:
    """Which of the keys that are there is meant by `key`: by its other names, else by its letters."""
    found = [name for name in _SYNONYMS.get(key, ()) if name in value]
    if not found:
        near = nearest(key, [name for name in value if isinstance(name, str)])
        found = near.split("'")[1:2]
    return f" Rename {found[0]!r} to {key!r}." if found else ""


def _list(value: Any, where: str, of: str) -> list[Any]:
    """A list, or the JSON text of one, as tables have it. It may be empty."""
    cure = f"Write a list of {of}."
    listed = json_in(value, where, cure) if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise DataError(f"{where} is {kind(listed)}. {cure}")
    return listed


def _tags(value: dict[str, Any], tokens: list[str], names: Sequence[str]) -> list[str]:
    given = [key for key in TAG_KEYS if value.get(key) is not None]
    if len(given) == 2:
        raise DataError("the record has `tags` and `ner_tags`. Keep the one that is to be trained.")
    key = given[0] if given else "tags"
    tags = _list(_needed(value, key), f"`{key}`", "tags, one a word")
    if len(tags) != len(tokens):
        raise DataError(f"there are {len(tokens)} `tokens` and {len(tags)} `{key}`. Write one tag a word.")
    return [tag_name(tag, number, key, names) for number, tag in enumerate(tags, 1)]


def tag_name(tag: Any, number: int, key: str, names: Sequence[str]) -> str:
    if isinstance(tag, str):
        return tag
    where = f"word {number}: its tag in `{key}` is"
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise DataError(f"{where} {kind(tag)}. Write the name of a tag, or O.")
    if not names:
        raise DataError(
            f"{where} the number {tag}, which names nothing. List the names in their order in task.labels, the one of"
            " 0 first, or write names in the file."
        )
    if not 0 <= tag < len(names):
        raise DataError(
            f"{where} {tag}, and there are names for 0 to {len(names) - 1}. Complete task.labels."
        )
    return names[tag]


def _parse_entities(value: dict[str, Any], labelled: bool) -> TokenRecord:
    text = _needed(value, "text")
    if not isinstance(text, str):
        raise DataError(f"`text` is {kind(text)}. Write a text.")
    if not labelled:
        return TokenRecord(text, split_words(text))
    if "entities" not in value:
        raise DataError(f"the record has no `entities`.{_meant(value, 'entities') or ' Write [] for none.'}")
    if value["entities"] is None:
        raise DataError("`entities` is null. Write [] where the text has none.")
    listed = _list(value["entities"], "`entities`", 'objects, {"start": 0, "end": 4, "label": "PER"}')
    found = sorted(_entity(entity, number, text) for number, entity in enumerate(listed))
    for before, after in pairwise(found):
        if after[0] < before[1]:
            raise _overlap(before, after)
    words = cut_words(split_words(text), [place for start, end, *_ in found for place in (start, end)])
    begins = [start for start, _ in words]
    spans = [
        Span(bisect_left(begins, start), bisect_left(begins, end), label) for start, end, label, _ in found
    ]
    return TokenRecord(text, words, None, spans)


def _overlap(before: tuple[int, int, str, int], after: tuple[int, int, str, int]) -> DataError:
    (_, end, first, a), (start, other_end, second, b) = before, after
    return DataError(
        f"entities[{a}] ({first!r}) and entities[{b}] ({second!r}) overlap at the characters {start} to"
        f" {min(end, other_end)}. Keep one of them: a word has one label."
    )


def _entity(entity: Any, number: int, text: str) -> tuple[int, int, str, int]:
    """(start, end, label, number), without the white space at its edges."""
    where = f"entities[{number}]"
    if not isinstance(entity, dict):
        raise DataError(f'{where} is {kind(entity)}. Write {{"start": 0, "end": 4, "label": "PER"}}.')
    for key in ("start", "end", "label"):
        if entity.get(key) is None:
            if key in entity:
                raise DataError(f"{where}: `{key}` is null. Fill it, or remove the entity.")
            raise DataError(f"{where} has no `{key}`.{_meant(entity, key) or f' Add `{key}`.'}")
    start, end, label = entity["start"], entity["end"], entity["label"]
    for key, offset in (("start", start), ("end", end)):
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise DataError(
                f"{where}: `{key}` is {kind(offset)} ({offset!r}). Write a whole number of characters."
            )
    if not isinstance(label, str) or not label.strip() or label == "O":
        what = repr(label) if isinstance(label, str) else kind(label)
        raise DataError(f"{where}: `label` is {what}. Write the type of the entity, such as PER.")
    _check_offsets(where, start, end, text)
    if isinstance(said := entity.get("text"), str) and said.strip() != text[start:end].strip():
        raise DataError(
            f"{where}: its `text` is {said[:40]!r}, and the characters {start} to {end} are {text[start:end][:40]!r}."
            " Count characters from 0, not bytes or UTF-16 units; the end is the one behind the last."
        )
    inside = text[start:end]
    if not inside.strip():
        raise DataError(f"{where}: the characters {start} to {end} are white space. Remove the entity.")
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip()), label.strip(), number


def _check_offsets(where: str, start: int, end: int, text: str) -> None:
    if start < 0:
        raise DataError(f"{where}: `start` is {start}. Count characters from 0.")
    if end <= start:
        raise DataError(
            f"{where}: `end` ({end}) is not behind `start` ({start}). It is exclusive: write start + length."
        )
    if end > len(text):
        size = len(text.encode("utf-8", "surrogatepass"))
        hint = " The offsets look like bytes." if end <= size else ""
        raise DataError(
            f"{where}: `end` is {end}, and the text has {len(text)} characters.{hint} Count characters, from 0."
        )


def at_word(error: DataError, value: dict[str, Any]) -> DataError:
    """The same error; where it is about a word of a CoNLL file, `at` gives it the line of the word."""
    found = re.match(r"word (\d+)\b", str(error))
    if found is None or not isinstance(value, Sentence):
        return error
    return _WordError(str(error), value.line_of(int(found[1]) - 1))


class _WordError(DataError):
    """`offset`: how many lines below the record's."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self._offset = offset

    def at(self, path: str | Path, line: int | None = None) -> DataError:
        return DataError(str(self)).at(path, None if line is None else line + self._offset)


def check_format(format: str) -> None:
    """Raise `ConfigError` for a format that is none."""
    if format not in TOKEN_FORMATS:
        hint = nearest(format, TOKEN_FORMATS)
        raise ConfigError(f"data.format={format!r} is unknown. Use one of: {', '.join(TOKEN_FORMATS)}.{hint}")
