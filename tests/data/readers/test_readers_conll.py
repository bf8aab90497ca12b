"""CoNLL: any columns and separators, comments told from tokens, documents; every fault with its own line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from glm_train.data.readers import record
from glm_train.data.readers.conll import read_conll
from glm_train.data.records import Fault, read_items, read_records
from glm_train.errors import ConfigError, DataError
from support import reading

write = partial(reading.write, name="data.conll")


def sentences(path: Path, **options: Any) -> list[tuple[int, str]]:
    """Line and `token/tag token/tag` of each sentence; of a fault its line and its message."""
    found = []
    for item in read_conll(path, **options):
        if isinstance(item, Fault):
            found.append((item.line, f"fault: {item.error}"))
        else:
            tags = item.value.get("tags") or [""] * len(item.value["tokens"])
            pairs = zip(item.value["tokens"], tags, strict=True)
            found.append((item.line, " ".join(f"{token}/{tag}" for token, tag in pairs)))
    return found


LAYOUTS: dict[str, tuple[str, dict[str, Any], list[tuple[int, str]]]] = {
    "tabs": ("A\tO\nB\tB-x\n\nC\tO\n", {}, [(1, "A/O B/B-x"), (4, "C/O")]),
    "no newline at the end": ("A\tO\n\nC\tB-x", {}, [(1, "A/O"), (3, "C/B-x")]),
    "several blank lines": ("\n\nA\tO\n\n \n\t\n \t \nC\tO\n\n\n", {}, [(3, "A/O"), (8, "C/O")]),
    "CRLF and BOM": ("\ufeffA\tO\r\nB\tB-x\r\n\r\nC\tO\r\n", {}, [(1, "A/O B/B-x"), (4, "C/O")]),
    "four columns": ("EU NNP B-NP B-ORG\nsaid VBD B-VP O\n", {}, [(1, "EU/B-ORG said/O")]),
    "runs of blanks": ("EU  NNP   O \nsaid\tx  B-x\n", {}, [(1, "EU/O said/B-x")]),
    "blanks and tabs": ("EU \t NNP O\nsaid x  B-x\n", {"separator": "space"}, [(1, "EU/O said/B-x")]),
    "filled columns": ("EU   \tO  \nsaid \tB-x\n", {}, [(1, "EU/O said/B-x")]),
    "trailing columns": ("A\tB-x\t_\t0.5\nB\tO\t_\t0.1\n", {"tag_column": 1}, [(1, "A/B-x B/O")]),
    "tags first": ("O\tA\nB-x\tB\n", {"token_column": 1, "tag_column": 0}, [(1, "A/O B/B-x")]),
    "from the end": ("1\tA\tO\t_\n", {"token_column": -3, "tag_column": -2}, [(1, "A/O")]),
    "commas": ('A,O\n",",B-x\n"""",O\n', {}, [(1, 'A/O ,/B-x "/O')]),
    "semicolons": ("A;B-x\n", {}, [(1, "A/B-x")]),
    "named separator": ("A b\tO c\n", {"separator": "tab"}, [(1, "A b/O c")]),
    "no tags": ("A\nB\n\n#\n", {"tags": False}, [(1, "A/ B/"), (4, "#/")]),
    "tags not read": ("A\tB-x\n", {"tags": False}, [(1, "A/")]),
    "blanks as tokens": (" \tO\n\xa0\tB-x\n\u3000\tO\n", {}, [(1, " /O \xa0/B-x \u3000/O")]),
    "no-break space between blanks": ("\xa0 O\n", {}, [(1, "\xa0/O")]),
    "line separators are characters": ("a\u2028b\tO\nc\x0cd\tO\n", {}, [(1, "a\u2028b/O c\x0cd/O")]),
    "comments": (
        "# sent_id = 1\n# text = A # b\nA\t_\tO\n#\t_\tB-x\n\n#newdoc = 3\nC\t_\tO\n",
        {},
        [(3, "A/O #/B-x"), (7, "C/O")],
    ),
    "comment inside": ("A\tO\n# a note\nB\tO\n", {}, [(1, "A/O B/O")]),
    "hash as a token": ("#\tO\n#tag\tB-x\n##\tO\n", {}, [(1, "#/O #tag/B-x ##/O")]),
    "hash as a token between blanks": (
        "# note\nA O\n# O\n# B-x\n#tag O\n",
        {},
        [(2, "A/O #/O #/B-x #tag/O")],
    ),
    "hash among parts of speech": ("# newdoc\nNo RB\n# NN\n1 CD\n", {}, [(2, "No/RB #/NN 1/CD")]),
    "tabs in a comment": ("# text = a\tb\nA\tO\n", {}, [(2, "A/O")]),
    "nothing but hashes": ("# O\n#x B-x\n", {}, [(1, "#/O #x/B-x")]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(tmp_path: Path, name: str) -> None:
    content, options, expected = LAYOUTS[name]
    assert sentences(write(tmp_path, content), **options) == expected


@pytest.mark.parametrize(
    "boundary",
    ["-DOCSTART- -X- O O", "-DOCSTART-", "-DOCSTART-\tO", "-DOCSTART- (3)", "#begin document (a); part 000"],
)
def test_documents_are_counted(tmp_path: Path, boundary: str) -> None:
    text = f"{boundary}\n\nA x y O\n\nB x y O\n{boundary}\nC x y O\n\n{boundary}\n\n{boundary}\n\nD x y O\n"
    found = [(item.value["tokens"], item.value["document"]) for item in read_records(write(tmp_path, text))]
    assert found == [(["A"], 1), (["B"], 1), (["C"], 2), (["D"], 3)]


def test_documents_without_boundaries_are_one(tmp_path: Path) -> None:
    assert [r.value["document"] for r in read_records(write(tmp_path, "A\tO\n\nB\tO\n"))] == [1, 1]


FAULTS = {
    "missing tag": ("A\tO\nB\nC\tO\n\nD\tO\n", 2, "'B' has 1 column, and line 1 has 2: a tag or another"),
    "empty tag": ("A\tO\nB\t\n\nD\tO\n", 2, "the token 'B' has no tag"),
    "blank tag": ("A\tO\nB\t \n\nD\tO\n", 2, "the token 'B' has no tag"),
    "empty token": ("A\tO\n\tO\n\nD\tO\n", 2, "column 0 has no token"),
    "column too many": ("A\tO\nB\tx\tO\n\nD\tO\n", 2, "has 3 columns, and line 1 has 2"),
    "hash without tag": ("A\tO\n#tag\n\nD\tO\n", 2, "or a blank behind the # of a comment"),
    "hash alone": ("A\tO\n#\n\nD\tO\n", 2, "has 1 column"),
    "hash with a column too many": ("A O\n# x O\n\nD O\n", 2, "has 3 columns"),
    "unquoted comma": ("A,O\n,,O\n\nD,O\n", 2, "has 3 columns"),
    "open quote": ('A,O\n",O\n\nD,O\n', 2, "the quotes of"),
    "blank as a token between blanks": ("A O\n  O\n\nD O\n", 2, "has 1 column"),
    "not UTF-8": (b"A\tO\n\xff\tO\n\nD\tO\n", 2, "byte 0xff at column 1 is not UTF-8"),
    "NUL": (b"A\tO\n\0\tO\n\nD\tO\n", 2, "NUL byte"),
    "carriage return": ("A\tO\nB\tO\rC\tO\n\nD\tO\n", 2, "a carriage return"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_its_line_and_stands_for_its_sentence(tmp_path: Path, name: str) -> None:
    content, line, message = FAULTS[name]
    path = write(tmp_path, content)
    found = sentences(path)
    assert [n for n, _ in found] == [line, path.read_bytes().count(b"\n")]
    assert message in found[0][1]
    assert found[1][1] == "D/O"
    with pytest.raises(DataError, match=f"^{path}:{line}: "):
        list(read_records(path))


WRONG = {
    "no such column": (
        "A\tO\n",
        {"tag_column": 4},
        ":1: data.tag_column=4, and the line 'A\\tO' has 2 columns",
    ),
    "no such token column": ("A\tO\n", {"token_column": -3}, ":1: data.token_column=-3"),
    "one column": ("A\nB\n", {}, ":1: the token and the tag of 'A' would be the same column, 0, of 1"),
    "same column": ("A\tO\n", {"tag_column": 0}, "would be the same column"),
    "wrong separator": ("A\tO\n", {"separator": "comma"}, "would be the same column, 0, of 1 between commas"),
    "only comments": ("# a\n\n-DOCSTART-\n", {}, "the file has no line with a token"),
    "only blank lines": ("\n\t\n", {}, "the file has no line with a token"),
    "old line endings": ("A\tO\rB\tO\r", {}, ":1: the line holds a carriage return"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    content, options, message = WRONG[name]
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        list(read_conll(path, **options))
    assert str(caught.value).startswith(f"{path}:")
    assert message in str(caught.value)


def test_unknown_separator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.separator='tabs' is unknown.*Did you mean 'tab'"):
        list(read_conll(write(tmp_path, "A\tO\n"), separator="tabs"))


@pytest.mark.parametrize("suffix", ["conll", "conllu", "bio", "iob", "iob2", "iobes", "IOB2"])
def test_suffixes(tmp_path: Path, suffix: str) -> None:
    found = [item.value for item in read_records(write(tmp_path, "A\tO\n", name=f"a.{suffix}"))]
    assert found == [{"tokens": ["A"], "tags": ["O"], "document": 1}]


def test_any_suffix_with_a_reader_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, "A\tO\n", name="a.txt")
    assert len(list(read_items(path, read_conll))) == 1
    with pytest.raises(DataError, match=r"'\.txt' are not read"):
        read_items(path)


def test_lines_of_words(tmp_path: Path) -> None:
    found = list(read_conll(write(tmp_path, "A\tO\nB\tO\n\nC\tO\n# note\nD\tO\n")))
    assert [[item.value.line_of(word) for word in (0, 1)] for item in found] == [[0, 1], [0, 2]]  # type: ignore[union-attr]


def test_memory_is_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "word\tO\n" * 200 + "\n" + ("word\tO\n" * 9 + "\n") * 20_000)
    count, peak = reading.count_and_peak(read_conll(path))
    assert count == 20_001
    assert peak < 500_000 < path.stat().st_size
    monkeypatch.setattr(record, "MAX_RECORD_BYTES", 1000)
    first, second = list(read_conll(path))[:2]
    assert isinstance(first, Fault)
    assert "the sentence is longer than" in str(first.error)
    assert not isinstance(second, Fault)


@pytest.mark.parametrize("comment", ["# sent_id = 3", "# a", "# one two three four five"])
@pytest.mark.parametrize("mark", ["\t", " ", ",", ";"])
@pytest.mark.parametrize("middle", [[], ["NNP", "B-NP"]])
def test_tokens_are_the_same_whether_or_not_tags_are_read(
    tmp_path: Path, comment: str, mark: str, middle: list[str]
) -> None:
    """What is predicted for a file is what it is scored on."""
    rows = [[word, *middle, tag] for word, tag in (("EU", "B-ORG"), ("rejects", "O"), ("calls", "O"))]
    sentence = "\n".join(mark.join(row) for row in rows)
    path = tmp_path / "a.conll"
    path.write_text(f"{comment}\n{sentence}\n\n{comment}\n{sentence}\n")
    found = [[item.value["tokens"] for item in read_conll(path, tags=tags)] for tags in (True, False)]  # type: ignore[union-attr]
    assert found == [[["EU", "rejects", "calls"]] * 2] * 2


def test_words_alone_may_begin_with_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("Buy\n#\n1\n")
    assert [item.value["tokens"] for item in read_conll(path, tags=False)] == [["Buy", "#", "1"]]  # type: ignore[union-attr]
