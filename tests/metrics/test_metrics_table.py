"""Tables line up on a terminal, also with names that are wide, long, or many."""

from __future__ import annotations

import numpy as np
from rich.cells import cell_len

from glm_train.metrics.table import LONGEST_NAME, Table, confusion_table, score_table


def test_columns_line_up_under_wide_names() -> None:
    text = str(
        score_table(
            {"f1": 0.5, "f1/组织机构": 0.25, "support/组织机构": 1200.0, "f1/LOC": 1.0, "support/LOC": 3.0}
        )
    )
    title, *lines = text.split("\n")
    assert title == "scores by label"
    assert [cell_len(line) for line in lines] == [cell_len(lines[0])] * 3
    assert lines[1].split() == ["组织机构", "0.2500", "1,200"]
    assert lines[2].split() == ["LOC", "1.0000", "3"]


def test_labels_with_a_slash_and_missing_numbers() -> None:
    table = score_table({"f1/a/b": 0.5, "f1/c": 0.1, "recall/c": 0.2})
    assert table.rows == (("a/b", "0.5000", ""), ("c", "0.1000", "0.2000"))
    assert score_table({"f1": 1.0}).rows == ()
    assert str(score_table({"f1": 1.0})).startswith("scores by label\nlabel")


def test_a_confusion_matrix_is_printed_as_it_is() -> None:
    lines = str(confusion_table(np.array([[5, 0], [1200, 7]]), ["a", "b"])).split("\n")
    assert [line.split() for line in lines[1:]] == [["a", "b"], ["a", "5", "."], ["b", "1,200", "7"]]


def test_many_classes_are_summed_into_one() -> None:
    counts = np.random.default_rng(0).integers(0, 50, (30, 30))
    counts[4] += 1000
    table = confusion_table(counts, [f"c{i}" for i in range(30)], most=6)
    assert len(table.rows) == 6
    assert "c4" in table.header
    assert table.header[-1] == "(25 others)"
    numbers = [[int(cell.replace(",", "").replace(".", "0")) for cell in row[1:]] for row in table.rows]
    assert np.sum(numbers) == counts.sum()
    assert sum(numbers[table.header.index("c4") - 1]) == counts[4].sum()


def test_long_and_unprintable_names_are_tamed() -> None:
    text = str(Table("t", ("", "n"), (("很" * 40, "1"), ("a\x1b[31m\n", "2"))))
    assert len(text.split("\n")) == 4
    assert "\x1b" not in text
    assert max(map(cell_len, text.split("\n"))) <= LONGEST_NAME + 3
