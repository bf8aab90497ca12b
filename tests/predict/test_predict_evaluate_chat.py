"""Scores of a chat model: the loss that `fit` logs, by turn, and replies of a run that has learnt its data by heart."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from glm_train import run
from glm_train.config.schema import RunConfig
from glm_train.data.prepare import prepare_chat
from glm_train.errors import ConfigError, DataError
from glm_train.predict.chat_scores import NO_SACREBLEU
from glm_train.predict.evaluate_chat import answer_numbers, evaluate_chat, turn_sums
from glm_train.text.chat import Conversation, Message, encode_chat
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.trained_model import TrainedModel, load_trained
from support.runs import configure, rows


@pytest.fixture(scope="module")
def trained(model_folder: Path) -> TrainedModel:
    return load_trained(str(model_folder), device="cpu")


def settings(model: Path, chats: Path, **changes: Any) -> RunConfig:
    return configure(model, chats, None, data__validation=chats, **changes)


def test_a_run_that_learnt_its_data_scores_as_fit_says_and_answers_right(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    config = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        trainer__max_epochs=70,
        optim__lr=0.01,
        batch__tokens=400,
        data__validation=chat_file,
    )
    run.fit(config, "test")
    learned = load_trained(str(tmp_path / "run"), device="cpu")
    found = evaluate_chat(learned, config, samples=5, max_new_tokens=40)
    logged = rows(tmp_path / "run" / "metrics.csv")[-1]
    for name in ("val/loss", "val/perplexity", "val/token_accuracy"):
        assert found.metrics[name] == pytest.approx(float(logged[name]), rel=1e-5)
    for name in ("stop_rate", "right_stop_rate", "exact_match", "word_f1"):
        assert found.metrics[f"val/{name}"] == 1.0
    assert found.metrics["val/runaway_rate"] == 0.0
    assert "val/call_json_rate" not in found.metrics
    assert any("replies to 5 prompts, greedy, 40 tokens at most" in note for note in found.notes)


def test_the_loss_of_each_turn_is_that_of_its_tokens(trained: TrainedModel, chat_file: Path) -> None:
    store = prepare_chat([chat_file], trained.tokenizer, max_length=96)
    sums = turn_sums(trained, store, "fp32")
    expected = torch.zeros(8, 3, dtype=torch.float64)
    user = trained.tokenizer.special_tokens["<|user|>"]
    for i in range(len(store)):
        ids, labels = (torch.from_numpy(np.array(a, np.int64)) for a in store[i])
        with torch.no_grad():
            logits = trained.model(ids[None]).logits[0]
        for at in (labels[1:] != -100).nonzero()[:, 0].tolist():
            asked = int((ids[1 : at + 1] == user).sum())  # user messages before the target
            loss = cross_entropy(logits[at], labels[at + 1])
            right = float(logits[at].argmax() == labels[at + 1])
            expected[asked - 1] += torch.tensor([float(loss), right, 1.0], dtype=torch.float64)
    assert torch.equal(sums[:, 1:], expected[:, 1:])
    torch.testing.assert_close(sums[:, 0], expected[:, 0], rtol=1e-5, atol=0)
    assert (sums[:, 2] > 0).tolist() == [True, True, *[False] * 6]


def test_text_and_calls_that_follow_each_other_are_one_answer(tiny_tokenizer_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    messages = (
        Message("system", "S"),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Bye"),
        Message("assistant", "I look"),
        Message("assistant", "{}", metadata="f"),
        Message("observation", "o"),
        Message("assistant", "Done"),
    )
    chat = encode_chat(tokenizer, Conversation(messages))
    ids = np.array(chat.input_ids)
    numbers = answer_numbers(ids, tokenizer)
    trained_in = {
        number: tokenizer.decode(
            [
                i
                for i, label, n in zip(ids, chat.labels, numbers, strict=True)
                if label != -100 and n == number
            ]
        )
        for number in (0, 1, 2, 3)
    }
    assert trained_in == {
        0: "",
        1: "\nHello<|user|>",
        2: "\nI look<|assistant|>f\n{}<|observation|>",
        3: "\nDone<|user|>",
    }


def test_no_replies_are_made_where_none_are_wanted(
    trained: TrainedModel, model_folder: Path, chat_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_train.predict.evaluate_chat.answer_prompts", None)
    found = evaluate_chat(trained, settings(model_folder, chat_file), samples=0)
    assert set(found.metrics) == {"val/loss", "val/perplexity", "val/token_accuracy"}
    assert found.metrics["val/perplexity"] == pytest.approx(math.exp(found.metrics["val/loss"]))
    (table,) = found.tables
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["1", "2"]


def test_prompts_are_spread_over_all_files_and_end_before_the_last_answer(
    trained: TrainedModel, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, *records: dict[str, Any]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(tmp_path / name)

    def chat(n: int) -> dict[str, Any]:
        answer = {"role": "assistant", "content": f"SECRET {n}"}
        return {
            "messages": [{"role": "user", "content": f"ask {n}"}, answer, {"role": "user", "content": "ok"}]
        }

    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    first = write("a.jsonl", *map(chat, range(9)))
    second = write("b.jsonl", {"messages": [{"role": "user", "content": "ask 9"}, call], "tools": [tool]})
    seen: list[str] = []

    def listening(model: TrainedModel, prompts: list[Any], _: Any) -> Any:
        seen.extend(model.tokenizer.decode(prompt.ids) for prompt in prompts)
        assert [prompt.tools for prompt in prompts] == [(), (), ("f",)]
        return iter(())

    monkeypatch.setattr("glm_train.predict.evaluate_chat.answer_prompts", listening)
    config = settings(model_folder, Path(first))
    config = replace(config, data=replace(config.data, validation=(first, second), max_length=200))
    evaluate_chat(trained, config, samples=3)
    assert len(seen) == 3
    assert "SECRET" not in "".join(seen)
    assert [text.rpartition("<|user|>\n")[2] for text in seen] == [
        "ask 0<|assistant|>",
        "ask 4<|assistant|>",
        "ask 9<|assistant|>",
    ]


def test_an_untrained_model_runs_away_and_half_precision_is_near(
    trained: TrainedModel, model_folder: Path, chat_file: Path
) -> None:
    full = evaluate_chat(trained, settings(model_folder, chat_file), samples=3, max_new_tokens=2)
    half = evaluate_chat(
        trained,
        settings(model_folder, chat_file, trainer__precision="bf16-mixed"),
        samples=3,
        max_new_tokens=2,
    )
    assert full.metrics["val/stop_rate"] + full.metrics["val/runaway_rate"] == 1.0
    assert full.metrics["val/exact_match"] == 0.0
    assert half.metrics["val/loss"] != full.metrics["val/loss"]
    assert half.metrics["val/loss"] == pytest.approx(full.metrics["val/loss"], rel=0.02)
    assert full.notes[-1] == NO_SACREBLEU or "val/bleu" in full.metrics


@pytest.mark.parametrize(
    ("changes", "options", "error", "expected"),
    [
        ({}, {"samples": -1}, ConfigError, "samples=-1"),
        ({}, {"max_new_tokens": 0}, ConfigError, "max_new_tokens=0"),
        ({"validation": ("no/such.jsonl",)}, {}, (DataError, ConfigError), "no/such.jsonl"),
        ({"max_length": 3}, {}, (DataError, ConfigError), "data.max_length"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    trained: TrainedModel,
    model_folder: Path,
    chat_file: Path,
    changes: dict[str, Any],
    options: dict[str, int],
    error: type[Exception],
    expected: str,
) -> None:
    config = settings(model_folder, chat_file)
    config = replace(config, data=replace(config.data, **changes))
    with pytest.raises(error, match=expected):
        evaluate_chat(trained, config, **options)


def test_a_model_of_labels_is_refused(trained: TrainedModel, model_folder: Path, chat_file: Path) -> None:
    with pytest.raises(ConfigError, match="gives labels"):
        evaluate_chat(replace(trained, task="sequence_classification"), settings(model_folder, chat_file))
