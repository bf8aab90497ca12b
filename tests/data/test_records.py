"""Malformed files are refused with file, line and cure; well-formed ones are read to the letter."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from glm_train.data.readers import record
from glm_train.data.records import READERS, Fault, Record, read_items, read_records
from glm_train.errors import DataError
from support import reading
from support.reading import count_and_peak, refusal

GOOD = b'{"a": 1}\n'


write = partial(reading.write, name="data.jsonl")


MALFORMED = {
    "bad UTF-8": (GOOD + b'{"a": "\xff"}\n', 2, "byte 0xff at column 8 is not UTF-8"),
    "NUL byte": (GOOD + b'{"a": "\0"}\n', 2, "NUL byte"),
    "truncated JSON": (GOOD + b'{"a": 1, "b', 2, "not JSON: Unterminated string starting at column 10"),
    "two values": (b'{"a": 1} {"b": 2}\n', 1, "Extra data at column 10"),
    "pretty-printed": (b'{\n  "a": 1\n}\n', 1, "one JSON object over many lines"),
    "array over lines": (b'[{"a": 1},\n{"a": 2}]\n', 1, "name it .json"),
    "array": (b'[{"a": 1}]\n', 1, "a JSON array, not an object"),
    "string": (b'"a"\n', 1, "a JSON string, not an object"),
    "null": (b"null\n", 1, "a JSON null, not an object"),
    "deep nesting": (GOOD * 2 + b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 3, "nested too deeply"),
    "deep arrays": (b'{"a":' + b"[" * 100_000, 1, "nested too deeply"),
    "NaN": (b'{"a": NaN}\n', 1, "NaN is not JSON"),
    "Infinity": (b'{"a": -Infinity}\n', 1, "-Infinity is not JSON"),
    "repeated key": (GOOD + b'{"b": {"x": 1, "y": 2, "x": 3}}\n', 2, "the key 'x' occurs twice"),
    "lone surrogate": (b'{"a": "\\ud83d"}\n', 1, "\\ud83d is half of a surrogate pair"),
    "lone surrogate key": (b'{"\\udc00": 1}\n', 1, "\\udc00 is half of a surrogate pair"),
    "huge integer": (b'{"a": ' + b"9" * 5000 + b"}\n", 1, "not usable JSON"),
    "raw surrogate bytes": (b'{"a": "\xed\xa0\x80"}\n', 1, "not UTF-8"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_line_is_named(tmp_path: Path, case: str) -> None:
    content, line, message = MALFORMED[case]
    path = write(tmp_path, content)
    text = refusal(path)
    assert text.startswith(f"{path}:{line}: ")
    assert message in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"\n \r\n\t\n", "only blank lines"),
    ],
)
def test_file_without_records(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    assert refusal(path).startswith(f"{path}: ")
    assert message in refusal(path)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, GOOD, name="train.jsonl")
    assert refusal(tmp_path / "trian.jsonl").endswith("no such file. Did you mean 'train.jsonl'?")


def test_missing_folder_is_said(tmp_path: Path) -> None:
    assert f"The folder '{tmp_path / 'no'}' does not exist either" in refusal(tmp_path / "no" / "train.jsonl")


def test_folder_suggests_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert refusal(tmp_path) == f"{tmp_path}: this is a folder. Name the data file, for example '{path}'."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_as_a_user(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    path.chmod(0)
    assert "no permission to read it" in refusal(path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    assert refusal(path).startswith(f"{path}: no permission to read it")


def test_device_is_refused() -> None:
    assert "not a regular file" in refusal(Path("/dev/null"))


@pytest.mark.parametrize("name", ["data.txt", "data.xlsx", "data"])
def test_unknown_suffix_lists_the_known(tmp_path: Path, name: str) -> None:
    assert "Use one of: .arrow, .bio, .conll, .conllu, .csv, .iob, .iob2, .iobes, .json, .jsonl" in refusal(
        write(tmp_path, GOOD, name=name)
    )


def test_compressed_files_are_refused_unread(tmp_path: Path) -> None:
    bomb = gzip.compress(b'{"a": 1}\n' * 1_000_000)
    by_name = write(tmp_path, bomb, name="data.jsonl.gz")
    assert refusal(by_name) == f"{by_name}: compressed files are not read. Unpack it, with gunzip."
    disguised = write(tmp_path, bomb)
    assert "gzip-compressed, and compressed files are not read. Unpack it, with gunzip" in refusal(disguised)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"PAR1\x00\x00", "a Parquet file. Name it .parquet"),
        (b"ARROW1\x00\x00", "an Arrow file. Name it .arrow"),
        (b"PK\x03\x04", "a zip archive or a spreadsheet"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text. Save it as UTF-8"),
        ("\ufeff{}".encode("utf-16-be"), "UTF-16 text. Save it as UTF-8"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv"])
def test_other_kinds_under_the_name_of_a_text(tmp_path: Path, start: bytes, what: str, suffix: str) -> None:
    path = write(tmp_path, start, name=f"data.{suffix}")
    assert refusal(path).startswith(f"{path}: the file is {what}")


def test_dangling_link_is_a_missing_file(tmp_path: Path) -> None:
    link = tmp_path / "data.jsonl"
    link.symlink_to(tmp_path / "gone.jsonl")
    assert "no such file" in refusal(link)


def test_overlong_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1 << 20)
    path = write(tmp_path, GOOD + b'{"a": "' + b"x" * (3 << 20) + b'"}\n' + GOOD)
    assert refusal(path).startswith(f"{path}:2: the line is longer than 1 MiB")
    items = list(read_items(path))
    assert [(type(item), item.line) for item in items] == [(Record, 1), (Fault, 2), (Record, 3)]


def test_faults_stand_in_the_place_of_their_records(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + b"{broken\n\n" + b"[1]\n" + GOOD)
    items = list(read_items(path))
    assert [(type(item), item.line) for item in items] == [(Record, 1), (Fault, 2), (Fault, 4), (Record, 5)]
    assert str(items[2].placed()) == f"{path}:4: {items[2].error}"


def test_disk_that_fails_is_said_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)

    def fail(_: Path) -> Iterator[Record]:
        yield Record({}, str(path), 1)
        raise OSError(5, "Input/output error")

    monkeypatch.setitem(READERS, "jsonl", fail)
    assert refusal(path) == f"{path}: cannot be read to its end: Input/output error."


def test_mark_line_endings_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": "\\ud83d\\ude00 \xe2\x80\xa8 \\u4f60"}')
    found = [(record.value, record.line) for record in read_records(path)]
    assert found == [({"a": 1}, 1), ({"a": "😀 \u2028 你"}, 4)]
    assert next(iter(read_records(path))).path == str(path)


def test_file_is_checked_before_iteration(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "gone.jsonl")


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, (json.dumps({"text": "x" * 1000}).encode() + b"\n") * 20_000)
    count, peak = count_and_peak(read_records(path))
    assert count == 20_000
    assert peak < 1 << 20, "20 MB of records were read with more than 1 MiB of memory"
