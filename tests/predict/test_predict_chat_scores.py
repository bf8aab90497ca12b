"""Scores of replies: each by a worked example."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from glm_train.predict.chat_scores import (
    NO_SACREBLEU,
    Replied,
    call_fault,
    reply_scores,
    sacrebleu_scores,
    same,
    stopped_right,
    word_f1,
)
from glm_train.text.answers import Answer, Call, Reply, parse_answer

WEATHER = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "required": ["city"]}},
}


def answer(text: str, stopped_by: str | None = "<|user|>") -> Answer:
    return Answer(parse_answer(text, stopped_by), stopped_by, 3, text)


CALL = 'f\n{"city": "x", "n": 1}'


@pytest.mark.parametrize(
    ("text", "stopped_by", "stop_token", "right"),
    [
        ("\nHi", "<|user|>", "role", True),
        ("\nHi", "<|endoftext|>", "role", True),
        ("\nHi", "<|observation|>", "role", False),
        ("\nHi", None, "role", False),
        (CALL, "<|observation|>", "role", True),
        ("\nHi", "<|user|>", "endoftext", False),
        ("\nHi", "<|endoftext|>", "endoftext", True),
    ],
)
def test_the_right_stop_is_the_one_that_was_trained(
    text: str, stopped_by: str | None, stop_token: str, right: bool
) -> None:
    assert stopped_right(answer(text, stopped_by), stop_token) is right


def test_a_call_that_ends_like_a_text_did_not_stop_right() -> None:
    reply = Reply("", (Call("f", "{}"),))
    assert not stopped_right(Answer(reply, "<|user|>", 3, "f\n{}"))


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("f", '{"city": "x"}', ""),
        ("f", '{"city": null, "more": 1}', ""),
        ("f", "{}", "missing: city"),
        ("f", '{"city"', "arguments are no JSON object"),
        ("f", '["city"]', "arguments are no JSON object"),
        ("g", '{"city": "x"}', "unknown tool"),
        ("python", "print(1)", ""),
        ("h", "{}", ""),
    ],
)
def test_a_call_is_valid_if_it_could_be_made(name: str, arguments: str, fault: str) -> None:
    tools = [WEATHER, {"type": "python"}, {"name": "h", "parameters": None}]
    assert call_fault(Call(name, arguments), tools) == fault
    assert call_fault(Call(name, arguments), ()) in ("", "arguments are no JSON object")


def test_replies_are_the_same_whatever_the_order_of_arguments() -> None:
    reply, other = Reply("a ", (Call("f", '{"a": 1, "b": 2}'),)), Reply("a", (Call("f", '{"b":2,"a":1}'),))
    assert same(reply, other)
    assert not same(reply, Reply("a", (Call("f", '{"a": 1}'),)))
    assert not same(reply, Reply("a"))
    assert same(Reply("", (Call("f", "[1"),)), Reply("", (Call("f", "[1"),)))


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The cat sat.", "the cat sat .", 1.0),
        ("a b", "a c", 0.5),
        ("a a a", "a", 0.5),
        ("北京晴", "北京今天晴", 0.75),
        ("", "a", 0.0),
        ("a", "", 0.0),
        ("", "", 1.0),
    ],
)
def test_word_f1(text: str, reference: str, expected: float) -> None:
    assert word_f1(text, reference) == pytest.approx(expected)


def test_scores_are_shares_of_what_they_are_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    wanted = Reply("", (Call("f", '{"n": 1, "city": "x"}'),))
    tools = (WEATHER,)
    replies = [
        Replied(answer("\nHello"), Reply("Hello")),
        Replied(answer("\nHello you", None), Reply("Hello")),
        Replied(answer(CALL, "<|observation|>"), wanted, tools),
        Replied(answer("f\n{oops", "<|observation|>"), wanted, tools),
        Replied(answer("\nNo", "<|user|>"), wanted, tools),
    ]
    scores, notes = reply_scores(replies)
    assert scores == pytest.approx(
        {
            "stop_rate": 0.8,
            "runaway_rate": 0.2,
            "right_stop_rate": 0.8,
            "exact_match": 0.4,
            "call_json_rate": 0.5,
            "call_valid_rate": 0.5,
            "call_match": 1 / 3,
            "word_f1": (1 + 2 / 3) / 2,
        }
    )
    assert notes == [NO_SACREBLEU]
    assert reply_scores([]) == ({}, [])
    assert reply_scores(replies[2:3])[1] == []  # no text to compare


@pytest.mark.parametrize(("reference", "cut"), [("It is sunny.", "13a"), ("北京 sunny", "zh")])
def test_sacrebleu_cuts_chinese_as_chinese(monkeypatch: pytest.MonkeyPatch, reference: str, cut: str) -> None:
    asked: list[Any] = []
    module = ModuleType("sacrebleu")
    vars(module).update(
        corpus_bleu=lambda *a, **k: asked.append((a, k)) or SimpleNamespace(score=12.5),
        corpus_chrf=lambda *a, **k: asked.append((a, k)) or SimpleNamespace(score=50.0),
    )
    monkeypatch.setitem(sys.modules, "sacrebleu", module)
    assert sacrebleu_scores(("It",), (reference,)) == {"bleu": 12.5, "chrf": 50.0}
    assert asked == [((["It"], [[reference]]), {"tokenize": cut}), ((["It"], [[reference]]), {})]


def test_the_real_sacrebleu() -> None:
    """Equal texts score 100, texts without a common word 0, in both ways of cutting."""
    for text, other in (("the cat sat on the mat today", "a dog runs"), ("今天北京的天气非常好", "abc def")):
        assert sacrebleu_scores([text], [text]) == pytest.approx({"bleu": 100.0, "chrf": 100.0})
        found = sacrebleu_scores([other], [text])
        assert found is not None
        assert found["bleu"] < 5 > found["chrf"]
