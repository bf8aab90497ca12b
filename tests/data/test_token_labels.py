"""The entity types and the scheme of data files: found in one pass, kept, and the same for all files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from glm_train.data.token_files import TokenReader
from glm_train.data.token_labels import TagsFound, discover_tags
from glm_train.errors import ConfigError
from support.reading import refusal_by

IOB1 = "A\tI-PER\nB\tI-PER\nC\tB-PER\n\nD\tI-LOC\n"
IOB2 = "A\tO\n\nB\tB-PER\nC\tI-PER\nD\tB-PER\n"
IOBES = "A\tO\n\nB\tB-PER\nC\tE-PER\nD\tS-LOC\n"
NONE = "A\tO\nB\tO\n"


def write(folder: Path, *contents: str, suffix: str = "conll") -> list[Path]:
    paths = []
    for number, content in enumerate(contents):
        paths.append(folder / f"{number}.{suffix}")
        paths[-1].write_text(content)
    return paths


refusal = partial(refusal_by, discover_tags)


@pytest.mark.parametrize(
    ("content", "scheme", "types"),
    [
        (IOB1, "IOB1", {"LOC": 1, "PER": 2}),
        (IOB2, "IOB2", {"PER": 2}),
        (IOBES, "IOBES", {"LOC": 1, "PER": 1}),
        ("A\tNN\nB\tVB\n\nA\tNN\n", "plain", {"NN": 2, "VB": 1}),
    ],
)
def test_scheme_and_counts_of_types(tmp_path: Path, content: str, scheme: str, types: dict[str, int]) -> None:
    found = discover_tags(write(tmp_path, content, NONE if scheme != "plain" else content))
    assert found.scheme == scheme
    assert found.types == {name: count * (2 if scheme == "plain" else 1) for name, count in types.items()}
    if scheme != "plain":
        named = discover_tags(write(tmp_path, content, NONE), scheme=scheme.lower())
        assert (named.scheme, named.types) == (scheme, types)


def test_labels_are_in_order_whatever_the_scheme() -> None:
    assert TagsFound({"b": 1, "a": 2}, "IOBES").labels == ["O", "B-a", "I-a", "B-b", "I-b"]
    assert TagsFound({"VB": 1, "NN": 2}, "plain").labels == ["NN", "VB"]


def test_entities_have_types_and_no_scheme(tmp_path: Path) -> None:
    entity = {"start": 0, "end": 4, "label": "PER"}
    lines = [json.dumps({"text": "Anna", "entities": [entity]}), json.dumps({"text": "x", "entities": []})]
    paths = write(tmp_path, "\n".join(lines), suffix="jsonl")
    assert discover_tags(paths) == TagsFound({"PER": 1}, "", 0, 2)
    assert discover_tags([*paths, *write(tmp_path, IOBES)]).scheme == "IOBES"


def test_files_of_different_schemes_are_refused(tmp_path: Path) -> None:
    one, none, other = write(tmp_path, IOB1, NONE, IOB2)
    expected = f"{other}:3: the tags of this file follow IOB2, and those of {one}:1 IOB1."
    assert refusal([one, none, other]).startswith(expected)


def test_tags_of_no_scheme_have_their_place(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "A\tO\n\nB\tB-x\n\n# note\n\nC\tI-x\n")
    text = refusal([path])
    assert text.startswith(
        f"{path}:7: the tags follow neither IOB2 nor IOB1. the record of line 7, word 1: 'I-x'"
    )
    assert "the record of line 3, word 1: 'B-x'" in text
    assert "data.scheme" in text
    named = refusal([path], scheme="iob2")
    assert named.startswith(f"{path}:7: word 1: 'I-x'")


def test_a_bad_tag_has_its_own_line(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "A\tO\n\nB\tB-x\nC\tO\nD\tI-x\n")
    assert refusal([path], scheme="iob2").startswith(f"{path}:5: word 3: 'I-x'")


def test_faulty_records_are_skipped_where_they_are_to_be(tmp_path: Path) -> None:
    (path,) = write(tmp_path, "A\tB-x\nB\n\nC\tB-y\n")
    assert refusal([path]).startswith(f"{path}:2: ")
    assert discover_tags([path], on_error="skip").types == {"y": 1}


def test_files_without_an_entity(tmp_path: Path) -> None:
    paths = write(tmp_path, NONE)
    assert "no word is in an entity" in refusal(paths)
    assert discover_tags(paths, may_be_empty=True) == TagsFound({}, "", 0, 1)


def test_one_plain_tag_is_the_wrong_column(tmp_path: Path) -> None:
    paths = write(tmp_path, "A\tB-x\t_\nB\tO\t_\n")
    assert refusal(paths).startswith(f"{paths[0]}:1: every word has the tag '_'. Set data.tag_column")
    assert discover_tags(paths, reader=TokenReader(tag_column=1)).types == {"x": 1}


def test_types_that_differ_in_case_alone(tmp_path: Path) -> None:
    paths = write(tmp_path, "A\tB-Per\n\nB\tB-PER\nC\tB-PER\n")
    assert "the types 'PER' (2 entities) and 'Per' (1) differ in case alone" in refusal(paths)


def test_unknown_scheme(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.scheme='iob3' is unknown.*Did you mean 'iob"):
        discover_tags(write(tmp_path, IOB2), scheme="iob3")


def test_what_was_found_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    inner = TokenReader.__call__
    monkeypatch.setattr(
        TokenReader, "__call__", lambda self, path: (read.append(path.name), inner(self, path))[1]
    )
    paths, options = write(tmp_path, IOB2, NONE), {"cache_dir": tmp_path / "cache"}
    told: list[int] = []
    first = discover_tags(paths, progress=lambda what, done, total: told.append(done), **options)
    assert (read, told) == (["0.conll", "1.conll"], [2, 3])
    assert discover_tags(paths, **options) == first
    paths[1].rename(tmp_path / "moved.conll")
    assert discover_tags([tmp_path / "moved.conll", paths[0]], **options) == first
    assert read == ["0.conll", "1.conll"]
    paths[0].write_text(IOB2.replace("PER", "LOC"))
    assert discover_tags([paths[0]], **options).types == {"LOC": 2}
    discover_tags([paths[0]], reader=TokenReader("conll"), **options)
    assert read == ["0.conll", "1.conll", "0.conll", "0.conll"]


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    paths, cache = write(tmp_path, IOB2), tmp_path / "cache"
    found = discover_tags(paths, cache_dir=cache)
    (entry,) = cache.glob("*/labels.json")
    entry.write_text("{")
    assert discover_tags(paths, cache_dir=cache) == found


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refusal([tmp_path / "none.conll"])
