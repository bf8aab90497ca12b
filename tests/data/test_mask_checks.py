"""The rules about trained tokens, on stores that break each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glm_train.data.mask_checks import (
    HEADER,
    NO_STOP,
    OTHERS_TEXT,
    UNTRAINED,
    TurnTokens,
    check_masks,
    find_duplicates,
)
from glm_train.data.report import PrepareReport
from glm_train.data.store import ExampleStore, ExampleWriter, trained_tokens

SYSTEM, USER, ASSISTANT, END = 90, 91, 92, 93
TURNS = TurnTokens(frozenset({USER, END}), ASSISTANT, frozenset({SYSTEM, USER, ASSISTANT}))
X = -100


def store_of(folder: Path, *rows: tuple[list[int], list[int]]) -> ExampleStore:
    folder.mkdir()
    with ExampleWriter(folder) as writer:
        for line, (ids, labels) in enumerate(rows, start=1):
            row = np.array(labels, np.int32)
            writer.append(np.array(ids, np.int32), row, trained=trained_tokens(row), file=0, line=line)
        writer.finish(PrepareReport(records=len(rows), examples=len(rows)), {})
    return ExampleStore(folder, ["a.jsonl"])


GOOD = ([USER, 1, ASSISTANT, 2, 3, USER], [X, X, X, 2, 3, USER])
CASES = {
    "a good answer": (GOOD, {}),
    "a call handed over to the assistant itself": (
        ([USER, 1, ASSISTANT, 2, ASSISTANT, 3, USER], [X, X, X, 2, ASSISTANT, 3, USER]),
        {},
    ),
    "a label that is not the input, as stop_token=endoftext has it": (
        ([USER, 1, ASSISTANT, 2, USER, 1, ASSISTANT, 4, END], [X, X, X, 2, END, X, X, 4, END]),
        {},
    ),
    "nothing trained": (([USER, 1, ASSISTANT, 2], [X, X, X, X]), {UNTRAINED: 1}),
    "only the first token labelled": (([USER, 1], [USER, X]), {UNTRAINED: 1}),
    "the header too": (([USER, 1, ASSISTANT, 2, USER], [X, X, ASSISTANT, 2, USER]), {HEADER: 1}),
    "the question too": (
        ([USER, 1, ASSISTANT, 2, USER, 3, ASSISTANT, 4, USER], [X, X, X, 2, USER, 3, X, 4, USER]),
        {OTHERS_TEXT: 1, NO_STOP: 1},
    ),
    "no stop token": (([USER, 1, ASSISTANT, 2, 3], [X, X, X, 2, 3]), {NO_STOP: 1}),
    "a first answer without its stop token": (
        ([USER, 1, ASSISTANT, 2, USER, 1, ASSISTANT, 2, USER], [X, X, X, 2, X, X, X, 2, USER]),
        {NO_STOP: 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_finds_what_breaks_it_and_nothing_else(tmp_path: Path, case: str) -> None:
    row, broken = CASES[case]
    check = check_masks(store_of(tmp_path / "store", GOOD, row, GOOD), TURNS)
    assert check.broken == broken
    assert check.first == {rule: [1] for rule in broken}


def test_a_span_does_not_run_from_one_example_into_the_next(tmp_path: Path) -> None:
    """Two examples whose trained tokens touch in memory are two answers, the first without its stop token."""
    cut, opens = ([USER, ASSISTANT, 2], [X, X, 2]), ([7, 8, USER], [7, 8, USER])
    check = check_masks(store_of(tmp_path / "store", cut, opens), TURNS)
    assert (check.spans, check.broken) == (2, {NO_STOP: 1})


def test_many_examples_are_counted_across_chunks(tmp_path: Path) -> None:
    bad = ([USER, 1, ASSISTANT, 2, 3], [X, X, X, 2, 3])
    rows = [bad if i % 100 == 99 else GOOD for i in range(1300)]
    check = check_masks(store_of(tmp_path / "store", *rows), TURNS)
    assert check.broken == {NO_STOP: 13}
    assert check.first == {NO_STOP: [99, 199, 299, 399, 499]}
    assert (check.spans, check.stops) == (1300, {USER: 1287})


def test_duplicates_within_training_and_across(tmp_path: Path) -> None:
    other = ([USER, 5, ASSISTANT, 6, USER], [X, X, X, 6, USER])
    third = ([USER, 7, ASSISTANT, 8, USER], [X, X, X, 8, USER])
    train = store_of(tmp_path / "train", GOOD, GOOD, other, GOOD)
    validation = store_of(tmp_path / "validation", third, other, third, third)
    found = find_duplicates(train, validation)
    assert (found.in_training, found.in_both, found.validation, found.first_in_both) == (2, 1, 4, (1,))
    assert found.share == 0.25
    assert find_duplicates(train, None).share == 0


def spelled(ids: list[int]) -> str:
    return "".join({1: " a", 2: "b ", 4: "B", 5: "\n\n"}.get(id_, f"<{id_}>") for id_ in ids)


def test_prompts_that_training_has_with_another_answer(tmp_path: Path) -> None:
    turns = TurnTokens(TURNS.stops, TURNS.hand_over, TURNS.roles, USER)

    def row(*ids: int, answer: int = 9) -> tuple[list[int], list[int]]:
        asked = [*ids, ASSISTANT]
        return [*asked, answer, USER], [X] * len(asked) + [answer, USER]

    train = store_of(tmp_path / "train", row(USER, 1, 2), row(USER, 3, ASSISTANT, 7, USER, 3))
    rows = {
        "the same": (row(USER, 1, 2), False),
        "another answer": (row(USER, 1, 2, answer=8), True),
        "another system message": (row(SYSTEM, 6, USER, 1, 2), True),
        "case and white space": (row(USER, 5, 1, 4, 5), True),
        "another question": (row(USER, 1, 3), False),
        "the same last question after another answer": (row(USER, 3, ASSISTANT, 6, USER, 3), False),
        "the same history": (row(USER, 3, ASSISTANT, 7, USER, 3, answer=8), True),
        "no question": (row(3), False),
    }
    validation = store_of(tmp_path / "validation", *(found for found, _ in rows.values()))
    prompts = tuple(check_masks(store, turns, spelled).prompts for store in (train, validation))
    found = find_duplicates(train, validation, prompts)
    expected = [i for i, (_, same) in enumerate(rows.values()) if same]
    assert (found.in_both, found.same_prompt, found.first_same_prompt) == (1, len(expected), tuple(expected))
    assert find_duplicates(train, validation).same_prompt == 0, "nothing is known of prompts"
    assert check_masks(train, turns).prompts == []


def test_the_prompt_where_all_text_is_trained_is_the_first_question(tmp_path: Path) -> None:
    turns = TurnTokens(TURNS.stops, TURNS.hand_over, TURNS.roles, USER)
    rows = [[SYSTEM, 6, USER, 1, 2, ASSISTANT, answer, USER] for answer in (7, 8)]
    train, validation = (store_of(tmp_path / str(n), (ids, [X, *ids[1:]])) for n, ids in enumerate(rows))
    prompts = tuple(check_masks(store, turns, spelled).prompts for store in (train, validation))
    assert find_duplicates(train, validation, prompts).same_prompt == 1
