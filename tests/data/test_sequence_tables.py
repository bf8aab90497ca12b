"""Tables with labels: names of `ClassLabel` features, and CSV files as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glm_train.data.readers.columns import class_names
from glm_train.data.records import read_records
from glm_train.data.sequence_examples import prepare_sequence
from glm_train.data.sequence_labels import discover_labels
from glm_train.data.sources import files_of, find_sources
from glm_train.errors import DataError
from glm_train.text.tokenizer import GlmTokenizer


def data_set(label: list[Any], feature: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": feature(datasets)})
    return datasets.Dataset.from_dict({"text": ["a"] * len(label), "label": label}, features)


def files_in(folder: Path, table: Any, kind: str) -> list[Path]:
    if kind == "parquet":
        table.to_parquet(folder / "t.parquet")
        return [folder / "t.parquet"]
    table.save_to_disk(folder / "saved")
    return files_of(find_sources([str(folder / "saved")], split="train"))


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_names_of_a_class_feature(tmp_path: Path, kind: str) -> None:
    table = data_set([2, 0, 2], lambda d: d.ClassLabel(names=["pos", "never", "neg"]))
    files = files_in(tmp_path, table, kind)
    assert [item.value["label"] for item in read_records(files[0])] == ["neg", "pos", "neg"]
    labels = discover_labels(files, cache_dir=tmp_path / "cache")
    assert (labels.names, labels.counts) == (("pos", "never", "neg"), (1, 0, 2))
    assert labels.encode(1).tolist() == [1], "the data set says which id has which name"


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_names_of_lists_of_classes(tmp_path: Path, kind: str) -> None:
    table = data_set([[1, 0], []], lambda d: d.Sequence(d.ClassLabel(names=["x", "y"])))
    files = files_in(tmp_path, table, kind)
    assert [item.value["label"] for item in read_records(files[0])] == [["y", "x"], []]
    assert discover_labels(files, cache_dir=tmp_path / "cache").problem == "multi_label"


def test_names_that_are_numbers_are_not_ids(tmp_path: Path) -> None:
    table = data_set([0, 1, 1], lambda d: d.ClassLabel(names=["1", "2"]))
    labels = discover_labels(files_in(tmp_path, table, "arrow"), cache_dir=tmp_path / "cache")
    assert labels.counts == (1, 2)


def test_no_label_of_a_class_feature(tmp_path: Path) -> None:
    table = data_set([0, -1], lambda d: d.ClassLabel(names=["x", "y"]))
    with pytest.raises(DataError, match=r":2: there is no label under 'label'; the keys are: 'text'"):
        discover_labels(files_in(tmp_path, table, "arrow"), cache_dir=tmp_path / "cache")


def test_users_names_stand_above_the_data_sets(tmp_path: Path) -> None:
    table = data_set([0, 1], lambda d: d.ClassLabel(names=["x", "y"]))
    labels = discover_labels(files_in(tmp_path, table, "arrow"), labels=["y", "x"], cache_dir=tmp_path / "c")
    assert labels.names == ("y", "x")


def test_numbers_without_names(tmp_path: Path) -> None:
    whole = files_in(tmp_path, data_set([3.0, 1.0], lambda d: d.Value("float64")), "parquet")
    assert class_names(whole[0]) == {}
    assert discover_labels(whole, cache_dir=tmp_path / "c").names == ("1", "3")
    parts = files_in(tmp_path, data_set([3.5, 1.0], lambda d: d.Value("float32")), "parquet")
    assert discover_labels(parts, cache_dir=tmp_path / "c").problem == "regression"


@pytest.mark.parametrize(
    "metadata",
    [
        b"{",
        b"[]",
        b'{"info": 1}',
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1]}}}}',
    ],
)
def test_other_metadata_says_nothing(tmp_path: Path, metadata: bytes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": ["a", "b"], "label": [1, 0]}).replace_schema_metadata(
        {b"huggingface": metadata}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert discover_labels([tmp_path / "t.parquet"], cache_dir=tmp_path / "c").names == ("0", "1")


TABLES = {
    "plain": "text,label\ngood,pos\nbad,neg\n",
    "semicolons": "text;label\ngood;pos\nbad;neg\n",
    "tabs": "text\tlabel\ngood\tpos\nbad\tneg\n",
    "byte order mark, CRLF, quotes": '\ufeff"text","label"\r\n"good","pos"\r\n"bad","neg"\r\n',
    "names in other case": " Text , LABEL\ngood,pos\nbad,neg\n",
    "label first": "label,text\npos,good\nneg,bad\n",
    "more columns": "id,label,text,note\n1,pos,good,\n2,neg,bad,x\n",
    "index": ",text,label\n0,good,pos\n1,bad,neg\n",
    "blanks around labels": 'text,label\ngood, pos \nbad,"neg "\n',
    "no line end": "text,label\ngood,pos\nbad,neg",
    "blank lines": "\ntext,label\n\ngood,pos\n\nbad,neg\n\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_mean_the_same(tiny_tokenizer_folder: Path, tmp_path: Path, case: str) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    path = tmp_path / "t.csv"
    path.write_bytes(TABLES[case].encode())
    labels = discover_labels([path], cache_dir=tmp_path / "c")
    store = prepare_sequence([path], tokenizer, labels, cache_dir=tmp_path / "c")
    found = [
        (tokenizer.decode(store[i][0].tolist()), labels.names[store[i][1][0]]) for i in range(len(store))
    ]
    assert found == [("good", "pos"), ("bad", "neg")]


REFUSED = {
    "no header": (
        "I love it,pos\nI hate it,neg\n",
        "there is no text under 'text'; the keys are: 'I love it', 'pos'",
    ),
    "one column": ("text\ngood\nbad\n", "there is no label under 'label'; the keys are: 'text'"),
    "empty label": ("text,label\ngood,pos\nbad,\n", ":3: the label is empty"),
    "two separators": ("text;label\tx\na;b\tc\n", ":1: the header is one column"),
    "comma in a text": ("text,label\ngood, really,pos\nbad,neg\n", ":2: the row has 3 values"),
    "decimal commas": ("text;label\ngood;1,5\nbad;2\n", ":2: the label '1,5' looks like a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_are_refused(tmp_path: Path, case: str) -> None:
    content, message = REFUSED[case]
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        discover_labels([path], cache_dir=tmp_path / "c")
    assert message in str(caught.value)
