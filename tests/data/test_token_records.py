"""Records of words with tags and of texts with entities: what is read, and what is refused with which cure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.data.readers.conll import read_conll
from glm_train.data.records import Fault
from glm_train.data.token_files import TokenReader
from glm_train.data.token_records import at_word, parse_tokens
from glm_train.errors import DataError
from support.reading import refusal_by

TEXT = "Anna 😀 lives in  New York."


def entity(start: Any, end: Any, label: Any = "LOC", **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label, **more}


def read(*entities: Any, text: str = TEXT) -> dict[str, Any]:
    return {"text": text, "entities": list(entities)}


def found(value: dict[str, Any]) -> list[str]:
    """Each entity as `TYPE: its words with bars between`."""
    record = parse_tokens(value)
    assert record.entities is not None
    words = [record.text[start:end] for start, end in record.words]
    return [f"{span.type}: {'|'.join(words[span.start : span.end])}" for span in record.entities]


refusal = partial(refusal_by, parse_tokens)


ENTITIES = {
    "in any order": ([entity(17, 25), entity(0, 4, "PER")], ["PER: Anna", "LOC: New|York"]),
    "white space at the edges": ([entity(15, 25), entity(4, 7, "X")], ["X: 😀", "LOC: New|York"]),
    "beside each other": ([entity(17, 20), entity(20, 25)], ["LOC: New", "LOC: York"]),
    "inside of words": ([entity(1, 3), entity(22, 26)], ["LOC: nn", "LOC: ork|."]),
    "one inside of a word": ([entity(0, 2), entity(2, 4, "B")], ["LOC: An", "B: na"]),
    "to the end of the text": ([entity(25, 26)], ["LOC: ."]),
    "with its text": ([entity(17, 25, text="New York", id=7)], ["LOC: New|York"]),
    "with its text and a blank": ([entity(16, 25, text=" New York")], ["LOC: New|York"]),
    "none": ([], []),
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities(name: str) -> None:
    entities, expected = ENTITIES[name]
    assert found(read(*entities)) == expected


def test_entities_in_text_without_spaces() -> None:
    assert found(read(entity(2, 4), text="我在北京。")) == ["LOC: 北|京"]


def test_values_of_a_table_are_json_texts() -> None:
    assert found({"text": "Anna", "entities": '[{"start": 0, "end": 4, "label": "PER"}]'}) == ["PER: Anna"]
    record = parse_tokens({"tokens": '["a", "b"]', "tags": '["O", "B-x"]'})
    assert (record.text, record.tags) == ("a b", ["O", "B-x"])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_entities_come_back_as_they_were(data: st.DataObject) -> None:
    characters = st.sampled_from("ab 1.-'北か。\u0301\u200d👧🇩🇪\u00a0\n🏽")
    text = "".join(data.draw(st.lists(characters, min_size=1, max_size=20)))
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    stretches = zip(places[::2], places[1::2], strict=False)
    given_ = [entity(a, b, data.draw(st.sampled_from("XY"))) for a, b in stretches if text[a:b].strip()]
    record = parse_tokens(read(*data.draw(st.permutations(given_)), text=text))
    assert record.entities is not None
    back = [
        (record.words[span.start][0], record.words[span.end - 1][1], span.type) for span in record.entities
    ]
    bare = []
    for one in given_:
        inside = text[one["start"] : one["end"]]
        start = one["start"] + len(inside) - len(inside.lstrip())
        bare.append((start, start + len(inside.strip()), one["label"]))
    assert back == bare


REFUSED = {
    "end before start": ([entity(5, 3)], "entities[0]: `end` (3) is not behind `start` (5)"),
    "empty": ([entity(5, 5)], "`end` (5) is not behind `start` (5)"),
    "before the text": ([entity(-1, 3)], "`start` is -1"),
    "beyond the text": ([entity(0, 99)], "`end` is 99, and the text has 26 characters. Count"),
    "offsets in bytes": (
        [entity(20, 29)],
        "`end` is 29, and the text has 26 characters. The offsets look like bytes",
    ),
    "wrong text": (
        [entity(18, 26, text="New York")],
        "its `text` is 'New York', and the characters 18 to 26 are 'ew",
    ),
    "white space": ([entity(15, 17)], "the characters 15 to 17 are white space"),
    "overlap": (
        [entity(17, 25, "A"), entity(0, 4), entity(20, 26, "B")],
        "entities[0] ('A') and entities[2] ('B')",
    ),
    "inside one another": ([entity(0, 9), entity(2, 4)], "overlap at the characters 2 to 4"),
    "twice": ([entity(0, 4), entity(0, 4)], "entities[0] ('LOC') and entities[1] ('LOC') overlap"),
    "null start": ([entity(None, 4)], "`start` is null"),
    "null label": ([entity(0, 4, None)], "`label` is null"),
    "no label": ([{"start": 0, "end": 4}], "entities[0] has no `label`. Add `label`."),
    "type": ([{"start": 0, "end": 4, "type": "X"}], "Rename 'type' to 'label'"),
    "start_offset": (
        [{"start_offset": 0, "end_offset": 4, "label": "X"}],
        "Rename 'start_offset' to 'start'",
    ),
    "end_offset": ([{"start": 0, "end_offset": 4, "label": "X"}], "Rename 'end_offset' to 'end'"),
    "misspelt": ([{"start": 0, "end": 4, "lable": "X"}], "Rename 'lable' to 'label'"),
    "text offset": ([entity("0", 4)], "`start` is a text ('0')"),
    "real offset": ([entity(0, 4.0)], "`end` is a number (4.0). Write a whole number"),
    "boolean offset": ([entity(False, 4)], "`start` is a boolean (False)"),
    "number as label": ([entity(0, 4, 3)], "`label` is a number"),
    "empty label": ([entity(0, 4, " ")], "`label` is ' '"),
    "O": ([entity(0, 4, "O")], "`label` is 'O'"),
    "a list": ([[0, 4, "X"]], "entities[0] is a list. Write {"),
    "null": ([None], "entities[0] is null"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_entities_that_are_refused(name: str) -> None:
    entities, message = REFUSED[name]
    assert message in refusal(read(*entities))


RECORDS = {
    "fewer tags": ({"tokens": ["a", "b"], "tags": ["O"]}, "there are 2 `tokens` and 1 `tags`"),
    "empty word": ({"tokens": ["a", ""], "tags": ["O", "O"]}, "word 2 of `tokens` is an empty text"),
    "number as word": ({"tokens": [3], "tags": ["O"]}, "word 1 of `tokens` is a number"),
    "null word": ({"tokens": [None], "tags": ["O"]}, "word 1 of `tokens` is null"),
    "null tag": ({"tokens": ["a"], "tags": [None]}, "word 1: its tag in `tags` is null"),
    "number without names": ({"tokens": ["a"], "tags": [3]}, "the number 3, which names nothing"),
    "boolean tag": ({"tokens": ["a"], "ner_tags": [True]}, "its tag in `ner_tags` is a boolean"),
    "no tags": ({"tokens": ["a"]}, "the record has no `tags`. Add `tags`."),
    "labels": ({"tokens": ["a"], "labels": ["O"]}, "Rename 'labels' to 'tags'"),
    "words": ({"words": ["a"], "tags": ["O"]}, "has 'words', 'tags'. Rename 'words' to 'tokens'"),
    "sentence": ({"sentence": "a", "entities": []}, "Rename 'sentence' to 'text'"),
    "spans": ({"text": "a", "spans": []}, "the record has no `entities`. Rename 'spans' to 'entities'"),
    "no entities": ({"text": "a"}, "the record has no `entities`. Write [] for none."),
    "null entities": ({"text": "a", "entities": None}, "`entities` is null. Write []"),
    "an object": (
        {"text": "a", "entities": {"start": 0}},
        "`entities` is an object. Write a list of objects",
    ),
    "null tokens": ({"tokens": None, "tags": ["O"]}, "`tokens` is null"),
    "null text": ({"text": None, "entities": []}, "`text` is null"),
    "number as text": ({"text": 3, "entities": []}, "`text` is a number"),
    "nothing": ({}, "and has no keys"),
    "plain text": ({"tokens": "a b", "tags": "O O"}, "`tokens` is a text, and not JSON"),
    "two tags": ({"tokens": ["a"], "tags": ["O"], "ner_tags": [0]}, "has `tags` and `ner_tags`"),
    "both": (
        {"tokens": ["a"], "tags": ["O"], "text": "a", "entities": []},
        "Set data.format to tokens or entities",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_are_refused(name: str) -> None:
    value, message = RECORDS[name]
    assert message in refusal(value)


def test_a_named_format_decides() -> None:
    both = {"tokens": ["a", "b"], "tags": ["O", "O"], "text": "c", "entities": []}
    assert parse_tokens(both, "tokens").text == "a b"
    assert parse_tokens(both, "entities").text == "c"
    assert "the record has no `tokens`" in refusal({"text": "c", "entities": []}, "tokens")


def test_numbers_are_names_by_their_place() -> None:
    value = {"tokens": ["a", "b"], "ner_tags": [1, 0]}
    assert parse_tokens(value, tag_names=["O", "B-x"]).tags == ["B-x", "O"]
    assert "is 1, and there are names for 0 to 0" in refusal(value, tag_names=["O"])
    assert "is -1, and" in refusal({"tokens": ["a"], "tags": [-1]}, tag_names=["O"])


@pytest.mark.parametrize(
    "value", [{"tokens": ["a", "b"]}, {"text": "a b"}, {"text": "a b", "entities": None}]
)
def test_words_alone(value: dict[str, Any]) -> None:
    record = parse_tokens(value, labelled=False)
    assert (record.text, record.words, record.tags, record.entities) == ("a b", [(0, 1), (2, 3)], None, None)


def test_a_fault_of_a_word_has_its_line_in_a_conll_file(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("A\tO\n\nB\tO\n# note\nC\tO\n")
    record = list(read_conll(path))[1]
    assert not isinstance(record, Fault)
    error = at_word(DataError("word 2: wrong"), record.value)
    assert str(error.at("a.conll", record.line)) == "a.conll:5: word 2: wrong"
    assert (
        str(at_word(DataError("word 2: wrong"), {"document": 1, "lines": [0, 9]}).at("a", 3))
        == "a:3: word 2: wrong"
    )
    assert str(at_word(DataError("wrong"), record.value).at("a.conll", record.line)) == "a.conll:3: wrong"


def test_numbers_of_a_table_have_the_names_that_it_gives_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        ner_tags=datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
    )
    table = datasets.Dataset.from_dict(
        {"tokens": [["a", "b"], ["c"]], "ner_tags": [[1, 0], [1]]}, features=columns
    )
    table.to_parquet(str(tmp_path / "a.parquet"))
    table.save_to_disk(str(tmp_path / "saved"))
    for path in [tmp_path / "a.parquet", *(tmp_path / "saved").glob("*.arrow")]:
        records = list(TokenReader()(path))
        assert [record.value["ner_tags"] for record in records] == [["B-x", "O"], ["B-x"]]  # type: ignore[union-attr]
