"""Replies to a file of chats: any layout, in order, never shown the answer, and the same in two goes as in one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.errors import ConfigError, DataError
from glm_train.predict.chat_answers import plan_batches
from glm_train.text.chat import Conversation, Message, encode_prompt
from support.chat_predicting import Predicting, assistant, make_predicting, user, write

TOOLS = [{"type": "function", "function": {"name": "now", "description": "time", "parameters": {}}}]


@pytest.fixture
def predicting(model_folder: Path, chat_file: Path, tmp_path: Path) -> Predicting:
    return make_predicting(model_folder, chat_file, tmp_path)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the model is given, row by row without padding."""
    from glm_train import GlmForCausalLM

    seen: list[list[int]] = []
    generate = GlmForCausalLM.generate

    def listening(self: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        for row, mask in zip(ids, options["attention_mask"].bool(), strict=True):
            seen.append(row[mask].tolist())
        return generate(self, ids, **options)

    monkeypatch.setattr(GlmForCausalLM, "generate", listening)
    return seen


def test_every_layout_asks_the_same_question_with_and_without_its_answer(
    predicting: Predicting, tmp_path: Path, prompts: list[list[int]]
) -> None:
    history = [user("Hi"), assistant("Hello.")]
    shared = (
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello."},
        {"from": "human", "value": "你好"},
    )
    alpaca = {"instruction": "你好", "history": [["Hi", "Hello."]]}
    source = write(
        tmp_path / "in.jsonl",
        {"messages": [*history, user("你好")]},
        {"messages": [*history, user("你好"), assistant("SECRET")]},
        {"messages": json.dumps([*history, user("你好")])},
        {"conversations": [*shared]},
        {"conversations": [*shared, {"from": "gpt", "value": "SECRET"}]},
        {"conversations": [*history, user("你好")]},
        {**alpaca, "output": "SECRET"},
        {**alpaca, "output": ""},
        alpaca,
        {"prompt": [*history, user("你好")], "completion": [assistant("SECRET")]},
        {"prompt": [*history, user("你好")]},
    )
    summary = predicting(source)
    assert (summary.predicted, summary.faulty) == (11, 0)
    tokenizer = predicting.trained.tokenizer
    chat = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "你好"))
    expected = encode_prompt(tokenizer, Conversation(chat, None))
    assert prompts == [expected] * 11
    lines = predicting.lines()
    assert [line["line"] for line in lines] == list(range(1, 12))
    with_answer = [n for n, line in enumerate(lines, 1) if "reference" in line]
    assert with_answer == [2, 5, 7, 10]
    assert all(lines[n - 1]["reference"] == assistant("SECRET") for n in with_answer)
    assert {json.dumps(line["reply"]) for line in lines} == {json.dumps(lines[0]["reply"])}
    assert set(lines[0]) == {"line", "reply", "stopped_by", "tokens"}
    assert 1 <= lines[0]["tokens"] <= 8


def test_calls_and_their_results_are_read_and_calls_are_references(
    predicting: Predicting, tmp_path: Path, prompts: list[list[int]]
) -> None:
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "now", "arguments": "{}"}}],
    }
    result = {"role": "tool", "content": "noon"}
    source = write(
        tmp_path / "in.jsonl",
        {"messages": [user("?"), call, result], "tools": TOOLS},
        {"messages": [user("?"), assistant("I look."), call], "tools": TOOLS},
    )
    assert predicting(source).predicted == 2
    first, second = predicting.lines()
    assert "reference" not in first
    assert second["reference"] == {**call, "content": "I look."}
    text = [predicting.trained.tokenizer.decode(ids) for ids in prompts]
    assert any("<|observation|>\nnoon<|assistant|>" in shown for shown in text)
    assert all("I look." not in shown for shown in text)


def test_replies_are_those_of_single_prompts_whatever_the_batch(
    predicting: Predicting, chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicting(chat_file)
    batched = predicting.lines()
    monkeypatch.setattr("glm_train.predict.chat_answers.BATCH_ROWS", 1)
    predicting(chat_file, "single.jsonl")
    assert predicting.lines("single.jsonl") == batched
    assert [line["line"] for line in batched] == list(range(1, 12))
    assert batched[1]["reference"] == assistant("你好，你是谁？")


def test_faulty_records_have_a_line_in_their_place(predicting: Predicting, tmp_path: Path) -> None:
    long = user("a b c d " * 400)
    source = write(
        tmp_path / "in.jsonl",
        {"messages": [user("Hello")]},
        "not json",
        {"messages": [{"role": "system", "content": "Be kind."}]},
        {"messages": [user("a"), user("b")]},
        {"messages": []},
        {"text": "Hello"},
        {"messages": [long]},
        {"messages": [user("Hello"), {"role": "asistant", "content": "x"}]},
        {"prompt": "Hello"},
    )
    summary = predicting(source)
    assert (summary.predicted, summary.faulty) == (2, 7)
    lines = predicting.lines()
    assert [line["line"] for line in lines if "reply" in line] == [1, 9]
    errors = {line["line"]: line["error"] for line in lines if "error" in line}
    assert "nobody asks anything" in errors[3]
    assert "messages[1]: two user messages" in errors[4]
    assert "no room for an answer in the model's context of 256" in errors[7]
    assert "'asistant'" in errors[8]
    assert summary.first_faults[0].startswith(f"{source}:2: ")


def test_a_file_in_which_nothing_can_be_answered_leaves_nothing(
    predicting: Predicting, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.jsonl", {"text": "a"}, {"text": "b"})
    with pytest.raises(DataError, match="all of its 2 records cannot be answered"):
        predicting(source)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl"}


def test_lines_of_a_text_file_are_prompts(
    predicting: Predicting, tmp_path: Path, prompts: list[list[int]]
) -> None:
    source = tmp_path / "in.txt"
    source.write_text("Hello\n\n你好\n")
    assert predicting(source).predicted == 2
    assert [line["line"] for line in predicting.lines()] == [1, 3]
    tokenizer = predicting.trained.tokenizer
    expected = [
        encode_prompt(tokenizer, Conversation((Message("user", t),), None)) for t in ("Hello", "你好")
    ]
    assert sorted(prompts) == sorted(expected)


def test_a_length_limit_that_is_given_is_kept(
    predicting: Predicting, chat_file: Path, tmp_path: Path
) -> None:
    config = predicting.options.config
    config = replace(config, data=replace(config.data, max_length=12))
    given = frozenset({"data.max_length"})
    summary = predicting(chat_file, config=config, given=given)
    assert 0 < summary.faulty < 11
    assert all("data.max_length=12" in line["error"] for line in predicting.lines() if "error" in line)
    config = replace(config, data=replace(config.data, max_length=1000))
    with pytest.raises(ConfigError, match="the model's context has 256 tokens"):
        predicting(chat_file, "other.jsonl", config=config, given=given)


def test_half_precision_answers_too(predicting: Predicting, chat_file: Path) -> None:
    config = predicting.options.config
    config = replace(config, trainer=replace(config.trainer, precision="bf16-mixed"))
    assert predicting(chat_file, config=config).predicted == 11


def test_a_model_of_labels_is_refused(predicting: Predicting, chat_file: Path) -> None:
    predicting.trained = replace(predicting.trained, task="token_classification")
    with pytest.raises(ConfigError, match="this is a token classification model"):
        predicting(chat_file)


def test_batches_hold_what_fits_and_what_may_reach_the_end_of_the_context_is_alone() -> None:
    lengths = [10, 95, 20, 30, 91, 5]
    batches = plan_batches(lengths, new_tokens=10, limit=100)
    assert batches == [[1], [4], [3, 2, 0, 5]]
    assert sorted(i for batch in plan_batches([7] * 50, 9, 1000) for i in batch) == list(range(50))
    assert max(map(len, plan_batches([7] * 50, 9, 1000))) == 16
    wide = plan_batches([8000] * 3, 100, 100_000)
    assert [len(batch) for batch in wide] == [2, 1]
