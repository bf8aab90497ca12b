"""CSV and TSV: values to the letter, lines right in spite of quoted line breaks, wrong tables refused."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.data.readers import record
from glm_train.data.records import Fault, read_items, read_records
from glm_train.errors import DataError
from support import reading
from support.reading import count_and_peak, refusal

write = partial(reading.write, name="data.csv")


def test_quotes_line_breaks_and_lines(tmp_path: Path) -> None:
    text = '\ufeffprompt,completion\r\n"a ""b"", c","x\ny\n"\r\n\r\n你, z \r\n"",w\r\n'
    found = [(item.value, item.line) for item in read_records(write(tmp_path, text))]
    assert found == [
        ({"prompt": 'a "b", c', "completion": "x\ny\n"}, 2),
        ({"prompt": "你", "completion": " z "}, 6),
        ({"prompt": "", "completion": "w"}, 7),
    ]


def test_tabs(tmp_path: Path) -> None:
    path = write(tmp_path, 'prompt\tcompletion\na, b\t"c\td"\n', name="data.tsv")
    assert [item.value for item in read_records(path)] == [{"prompt": "a, b", "completion": "c\td"}]


def test_column_of_row_numbers_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, ",prompt,completion\n0,a,b\n")
    assert [item.value for item in read_records(path)] == [{"prompt": "a", "completion": "b"}]


def test_values_may_be_long(tmp_path: Path) -> None:
    long = "x" * 300_000
    path = write(tmp_path, f"prompt,completion\n{long},b\n")
    assert next(read_records(path)).value["prompt"] == long


SEPARATED = {
    "semicolons": 'Text;label\n"a;b, c";1,5\n',
    "tabs": "Text\tlabel\na;b, c\t1,5\n",
    "quoted names": '"Text";"label"\r\n"a;b, c";"1,5"\r\n',
    "a byte order mark and blanks": '\ufeff Text ;label \n"a;b, c";1,5\n',
    "a blank line first": '\n\nText;label\n"a;b, c";1,5\n',
}


@pytest.mark.parametrize("case", SEPARATED)
def test_header_without_commas_says_what_separates(tmp_path: Path, case: str) -> None:
    found = [item.value for item in read_records(write(tmp_path, SEPARATED[case]))]
    assert found == [{"Text": "a;b, c", "label": "1,5"}]


_VALUES = st.text(
    st.sampled_from('ab ,;|\t\n"é你\\') | st.characters(codec="utf-8", exclude_characters="\0\r")
)


@given(
    st.lists(
        st.tuples(_VALUES, _VALUES).filter(lambda row: bool("".join(row).strip())), min_size=1, max_size=5
    ),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], mark: str, end: str, quoted: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
        writer = csv.writer(file, delimiter=mark, lineterminator=end, quoting=quoting)
        writer.writerows([("text", "label"), *rows])
    assert [tuple(item.value.values()) for item in read_records(path)] == rows


def test_commas_in_the_header_are_the_separator(tmp_path: Path) -> None:
    path = write(tmp_path, "text,label;kind\na;b,c\n")
    assert [item.value for item in read_records(path)] == [{"text": "a;b", "label;kind": "c"}]
    assert "the row has 1 values" in refusal(write(tmp_path, "text,label\nfine;pos\n"))


def test_blank_before_a_quote_inside_a_quoted_value(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n" ""so,"" he said",a\n')
    assert [item.value for item in read_records(path)] == [{"text": ' "so," he said', "label": "a"}]


REFUSED = {
    "bars": ("prompt|completion\na|b\n", ":1: the header is one column, 'prompt|completion'"),
    "semicolons and tabs": (
        "a;b\tc\n1;2\t3\n",
        "Separate the columns with commas; a file with tabs is named .tsv",
    ),
    "semicolons in tsv": ("a;b\n1;2\n", ":1: the header is one column, 'a;b'"),
    "note to Excel": ("sep=;\na;b\n1;2\n", ":1: 'sep=;' is a note to Excel. Take this line out"),
    "bare CR": ("a,b\r1,2\r3,4\r", "its lines end with a bare carriage return"),
    "no name": ("prompt,,completion\na,b,c\n", ":1: the header has a column without a name"),
    "same name": ("prompt,prompt\na,b\n", ":1: two columns are named 'prompt'"),
    "no rows": ("prompt,completion\n\n", "the file holds a header and no rows"),
    "blank": ("\n\n", ":1: the header has a column without a name"),
    "open quote": (
        'prompt,completion\na,b\n"c,d\ne,f\n',
        ":3: the table cannot be read: unexpected end of data",
    ),
    "text after quote": (
        'prompt,completion\n"a"b,c\n',
        ":2: the table cannot be read: ',' expected after '\"'",
    ),
    "header not UTF-8": (b"pr\xffompt,completion\na,b\n", ":1: the header holds bytes that are not UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    path = write(tmp_path, content, name="data.tsv" if "tsv" in case else "data.csv")
    assert refusal(path).startswith(f"{path}:")
    assert message in refusal(path)
    with pytest.raises(DataError):
        list(read_items(path))


FAULTS = {
    "blank before a quote": (b'a, "b, c"', "'completion' has a blank before its opening quote"),
    "blank before a quote, without commas": (b'a, "b"', "'completion' has a blank before its opening quote"),
    "blank before empty quotes": (b'a, ""', "'completion' has a blank before its opening quote"),
    "too few": (b"a", "the row has 1 values, and the header 2 columns"),
    "too many": (b"a,b,c", "the row has 3 values, and the header 2 columns"),
    "not UTF-8": ("é,b".encode("latin-1"), "'prompt' holds bytes that are not UTF-8"),
    "GB18030": ("你好,b".encode("gb18030"), "'prompt' holds bytes that are not UTF-8"),
    "NUL": (b"a,b\0", "'completion' holds a NUL byte"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faulty_rows_do_not_end_the_file(tmp_path: Path, case: str) -> None:
    row, message = FAULTS[case]
    path = write(tmp_path, b'prompt,completion\n"x\ny",1\n' + row + b"\nz,2\n")
    items = list(read_items(path))
    assert [(type(item) is Fault, item.line) for item in items] == [(False, 2), (True, 4), (False, 5)]
    assert refusal(path).startswith(f"{path}:4: {message}")


def test_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1 << 20)
    path = write(tmp_path, "prompt,completion\na," + "x" * (2 << 20) + "\n")
    assert refusal(path).startswith(f"{path}:2: the table cannot be read: the line is longer than 1 MiB")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt,completion\n" + f'{"p" * 500},"{"c" * 500}"\n' * 5_000)
    count, peak = count_and_peak(read_records(path))
    assert count == 5_000
    assert peak < 1 << 20, "5 MB of rows were read with more than 1 MiB of memory"
