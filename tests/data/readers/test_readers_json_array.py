"""A JSON array is read element by element: the same records as `json.load`, each with the line it begins on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.data.readers import json_array, record
from glm_train.data.records import Fault, read_items, read_records
from glm_train.errors import DataError
from support import reading
from support.reading import count_and_peak, refusal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text('ab"\\[]{},:\n 北😀', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('x"\\]', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = st.lists(st.dictionaries(st.text("ab,", max_size=2), VALUES, max_size=3), min_size=1, max_size=6)


write = partial(reading.write, name="data.json")


@settings(max_examples=60, deadline=None)
@given(records=RECORDS, indent=st.sampled_from([None, 0, 1]), ascii=st.booleans(), chunk=st.integers(1, 40))
def test_the_same_as_json_load(
    tmp_path_factory: pytest.TempPathFactory,
    records: list[dict[str, Any]],
    indent: int | None,
    ascii: bool,
    chunk: int,
) -> None:
    """Wherever the borders of the chunks fall: inside strings, escapes, characters, between elements."""
    path = write(tmp_path_factory.mktemp("a"), json.dumps(records, indent=indent, ensure_ascii=ascii))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "_CHUNK_BYTES", chunk)
        found = list(json_array.read_json_array(path))
    assert [item.value for item in found] == records


def test_lines_are_those_on_which_records_begin(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeff\n[\n  {"a": 1},\r\n\n  {"a":\n   2}, {"a": 3}\n,\n{"a": 4}\n]\n\n')
    assert [(item.value["a"], item.line) for item in read_records(path)] == [(1, 3), (2, 5), (3, 6), (4, 8)]


def test_first_character_tells_arrays_from_lines(tmp_path: Path) -> None:
    assert [item.value for item in read_records(write(tmp_path, '{"a": 1}\n{"a": 2}\n'))] == [
        {"a": 1},
        {"a": 2},
    ]
    assert [item.value for item in read_records(write(tmp_path, '[{"a": 1}]'))] == [{"a": 1}]
    text = refusal(write(tmp_path, '{\n "data": []\n}\n'))
    assert "The file looks like one JSON object over many lines" in text


BROKEN = {
    "truncated": ('[{"a": 1},\n{"a": 2', 2, "the file ends before the array does"),
    "truncated in a string": ('[{"a": 1},\n{"a": "2', 2, "the file ends before the array does"),
    "truncated after a comma": ('[{"a": 1},\n', 2, "the file ends before the array does"),
    "no comma": ('[\n{"a": 1}\n{"a": 2}]', 3, "Extra data at column 1"),
    "trailing comma": ('[{"a": 1},\n]', 2, "a comma without a record"),
    "two commas": ('[{"a": 1},,\n{"a": 1}]', 1, "a comma without a record"),
    "comma first": ("[,{}]", 1, "a comma without a record"),
    "text behind": ('[{"a": 1}]\n{"a": 2}\n', 1, "text after the end of the array, '{\"a\": 2}'"),
    "two arrays": ("[{}][{}]", 1, "text after the end of the array"),
    "single quotes": ("[{'a': 1}]", 1, "Expecting property name enclosed in double quotes"),
    "wrong bracket": ('[{"a": 1]]', 1, "Expecting ',' delimiter"),
    "line inside a record": ('[{"a": 1},\n{"a": 1,\n"b" 2}]', 3, "Expecting ':' delimiter at column 5"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_arrays_end_the_file(tmp_path: Path, case: str) -> None:
    content, line, message = BROKEN[case]
    path = write(tmp_path, content)
    text = refusal(path)
    assert text.startswith(f"{path}:{line}: the array is not JSON: ")
    assert message in text
    assert "data.on_error=skip cannot pass over this: mend the file" in text
    with pytest.raises(DataError):
        list(read_items(path))


FAULTS = {
    "number": ("5", "a JSON number, not an object"),
    "text": ('"[{"', "a JSON string, not an object"),
    "repeated key": ('{"b": 1, "b": 2}', "the key 'b' occurs twice"),
    "NaN": ('{"b": NaN}', "NaN is not JSON"),
    "half a character": ('{"b": "\\udc00"}', "half of a surrogate pair"),
    "NUL": ('{"b": "\0"}', "NUL byte"),
    "deep": ("[" * 10_000 + "]" * 10_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faulty_records_do_not_end_the_file(tmp_path: Path, case: str) -> None:
    element, message = FAULTS[case]
    path = write(tmp_path, f'[{{"a": 1}},\n{element},\n{{"a": 3}}]')
    items = list(read_items(path))
    assert [(type(item) is Fault, item.line) for item in items] == [(False, 1), (True, 2), (False, 3)]
    assert refusal(path).startswith(f"{path}:2: ")
    assert message in refusal(path)


def test_bad_utf8_is_a_fault_of_its_record(tmp_path: Path) -> None:
    items = list(read_items(write(tmp_path, b'[{"a": "\xff"}, {"a": 1}]')))
    assert [type(item) is Fault for item in items] == [True, False]
    assert "byte 0xff at column 8 is not UTF-8" in str(items[0].error)


def test_empty_array(tmp_path: Path) -> None:
    path = write(tmp_path, " [ \n ] ")
    assert refusal(path) == f"{path}: the array is empty. Write at least one record."


def test_record_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1 << 20)
    path = write(tmp_path, '[{"a": 1},\n\n{"a": "' + "x" * (3 << 20) + '"}]')
    assert refusal(path).startswith(
        f"{path}:3: the array is not JSON: a record that does not end within 1 MiB"
    )


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[" + ",\n".join([json.dumps({"text": 'xxxxxxxx"' * 200})] * 5_000) + "]")
    count, peak = count_and_peak(read_records(path))
    assert count == 5_000
    assert peak < 2 << 20, "10 MB of records were read with more than 2 MiB of memory"
