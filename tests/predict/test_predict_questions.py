"""The question of a record: all before its last answer, in whatever file and layout it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from glm_train.errors import DataError
from glm_train.predict.questions import read_question, read_questions, split_answer
from glm_train.text.messages import Conversation, Message

HI, BYE = {"role": "user", "content": "Hi"}, {"role": "user", "content": "Bye"}
HELLO = {"role": "assistant", "content": "Hello."}


def said(value: dict[str, Any], format: str = "auto") -> list[str]:
    return [message.content for message in read_question(value, format).conversation.messages]


@pytest.mark.parametrize(
    ("value", "format", "expected"),
    [
        # other keys that a layout may have been made of decide nothing
        ({"messages": [HI], "prompt": "p", "prompt_id": "7"}, "auto", ["Hi"]),
        ({"instruction": "i", "prompt": "p", "completion": "c"}, "auto", ["p"]),
        ({"messages": [HI, HELLO, BYE], "conversations": [BYE]}, "sharegpt", ["Bye"]),
        ({"messages": [HI, HELLO, BYE], "conversations": [BYE]}, "messages", ["Hi", "Hello.", "Bye"]),
        ({"instruction": "i", "input": "x", "output": None}, "auto", ["i\nx"]),
        ({"prompt": "p", "completion": "  "}, "auto", ["p"]),
        ({"prompt": [HI, HELLO, BYE], "completion": []}, "auto", ["Hi", "Hello.", "Bye"]),
        ({"messages": json.dumps([HI])}, "auto", ["Hi"]),
        ({"messages": [json.dumps(HI)]}, "auto", ["Hi"]),
        ({"messages": [HI], "system": "S"}, "auto", ["S", "Hi"]),
        ({"conversations": [{"from": "human", "value": "a"}], "system": "S"}, "auto", ["S", "a"]),
    ],
)
def test_the_last_message_is_asked(value: dict[str, Any], format: str, expected: list[str]) -> None:
    assert said(value, format) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, "its keys: none"),
        ({"message": [HI]}, "Did you mean 'messages'"),
        ({"messages": []}, "empty list"),
        ({"messages": "[1"}, "JSON"),
        ({"messages": [7]}, "messages[0]"),
        ({"messages": [HELLO]}, "starts with the assistant"),
        ({"messages": [HI], "conversations": [HI]}, "in more than one way"),
        ({"messages": [{"role": "system", "content": "S"}]}, "nobody asks anything"),
        ({"messages": [{"role": "tool", "content": "S"}]}, "messages[0]"),
        ({"messages": [HI, {"role": "user", "content": [{"type": "image"}]}]}, "Only text"),
        ({"prompt": 7}, "`prompt`"),
        ({"instruction": " "}, "`instruction` is empty"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty content"),
        ({"messages": [HI], "tools": "x"}, "tools"),
    ],
)
def test_what_asks_nothing_is_refused_in_words(value: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError) as error:
        read_question(value)
    assert expected.lower() in str(error.value).lower()


def test_what_follows_the_last_answer_is_left_out() -> None:
    messages = tuple(
        Message(role, text)
        for role, text in (
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
            ("user", "e"),
        )
    )
    question = split_answer(Conversation(messages))
    assert question.conversation.messages == messages[:3]
    assert question.reference == messages[3:4]


def test_tables_are_read_too(tmp_path: Path) -> None:
    csv = tmp_path / "a.csv"
    csv.write_text('prompt\nWho?\n"Where, then?"\n')
    table = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"messages": [[HI], [HI, HELLO, BYE]]}), table)
    questions = [*read_questions(csv), *read_questions(table)]
    asked = [[m.content for m in question.conversation.messages] for question in questions]
    assert asked == [["Who?"], ["Where, then?"], ["Hi"], ["Hi", "Hello.", "Bye"]]
