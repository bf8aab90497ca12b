"""Samples show what a run has learnt, never see the answer, and leave no trace in the weights."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from glm_train import GlmForCausalLM, build, run
from glm_train.callbacks.samples import SampleAnswers, answer_samples, answer_span, choose_prompts
from glm_train.data.prepare import prepare_chat
from glm_train.data.store import ExampleStore
from glm_train.errors import CheckpointError
from glm_train.text.chat import Conversation, Message, encode_chat, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer
from support.model_folder import make_model_folder
from support.runs import configure, rows, weights


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


@pytest.fixture
def store(chat_file: Path, tokenizer: GlmTokenizer) -> ExampleStore:
    return prepare_chat([chat_file], tokenizer, max_length=96)


@pytest.fixture(scope="module")
def dropping_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_folder: Path) -> Path:
    """A model with dropout, whose training draws random numbers."""
    return make_model_folder(
        tmp_path_factory.mktemp("dropping") / "tiny", tiny_tokenizer_folder, attention_dropout=0.2
    )


CALL = Message("assistant", '{"city": "x"}', metadata="f")
CHAT = (
    Message("user", "Hi"),
    Message("assistant", "Hello <|user|>"),
    Message("user", "Weather?"),
    Message("assistant", "I look."),
    CALL,
)
RESULT = (Message("observation", "31"), Message("assistant", "Hot."))


@pytest.mark.parametrize("train_on", ["assistant", "last_assistant", "all"])
@pytest.mark.parametrize(
    ("messages", "asked"),
    [(CHAT[:2], 1), (CHAT, 3), (CHAT + RESULT, 6)],
    ids=["text", "call", "after a result"],
)
def test_a_prompt_is_what_the_model_would_be_given(
    tokenizer: GlmTokenizer, messages: tuple[Message, ...], asked: int, train_on: str
) -> None:
    chat = encode_chat(tokenizer, Conversation(messages), train_on=train_on)
    ids, labels = np.array(chat.input_ids), np.array(chat.labels)
    begin, end = answer_span(ids, labels, tokenizer)
    expected = encode_prompt(tokenizer, Conversation(messages[:asked]))
    if messages is CHAT and train_on == "last_assistant":
        assert ids[:begin].tolist()[: len(expected)] == expected  # the call alone is trained
        assert tokenizer.decode(ids[begin:end]) == f"f\n{CALL.content}<|observation|>"
        return
    assert ids[:begin].tolist() == expected
    assert end == len(ids)


def test_an_answer_that_is_not_trained_is_no_sample(tokenizer: GlmTokenizer) -> None:
    messages = (*CHAT[:2], Message("user", "Bye"), Message("assistant", "So long", train=False))
    chat = encode_chat(tokenizer, Conversation(messages))
    begin, end = answer_span(np.array(chat.input_ids), np.array(chat.labels), tokenizer)
    assert list(chat.input_ids[:begin]) == encode_prompt(tokenizer, Conversation(messages[:1]))
    assert tokenizer.decode(chat.input_ids[begin:end]) == "\nHello <|user|><|user|>"


def test_prompts_are_spread_over_the_store_and_always_the_same(
    store: ExampleStore, tokenizer: GlmTokenizer, chat_file: Path
) -> None:
    first, second = (choose_prompts(store, tokenizer, 3) for _ in range(2))
    assert [prompt.source for prompt in first] == [f"{chat_file}:{line}" for line in (1, 6, 11)]
    assert [p.ids.tolist() for p in first] == [p.ids.tolist() for p in second]
    assert len(choose_prompts(store, tokenizer, 100)) == 11


def test_short_examples_are_asked_first_and_long_ones_where_there_are_no_others(
    store: ExampleStore, tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    shortest = int(store.lengths.min())
    monkeypatch.setattr("glm_train.callbacks.samples.LONGEST", shortest)
    chosen = choose_prompts(store, tokenizer, 2)
    assert all(len(p.ids) + len(p.reference) == shortest for p in chosen)
    monkeypatch.setattr("glm_train.callbacks.samples.LONGEST", 1)
    longer = choose_prompts(store, tokenizer, 2)
    assert len(longer) == 2
    assert min(len(p.ids) + len(p.reference) for p in longer) == shortest


class Recorder(WandbLogger):
    """A W&B logger that keeps its tables and writes nothing."""

    def __init__(self) -> None:
        self.tables: list[dict[str, Any]] = []

    def log_table(self, key: str, **table: Any) -> None:
        self.tables.append({"key": key, **table})

    def log_metrics(self, *_: Any, **__: Any) -> None: ...

    def save(self) -> None: ...

    def finalize(self, status: str) -> None: ...


@pytest.fixture
def sampling(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Each run is also logged to the recorder."""
    recorder, build_loggers = Recorder(), build.build_loggers
    monkeypatch.setattr(build, "build_loggers", lambda *a, **k: [*build_loggers(*a, **k), recorder])
    return recorder


def samples(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_weights_and_scalars_are_the_same_with_samples_and_without(
    tmp_path: Path,
    dropping_folder: Path,
    chat_file: Path,
    precision: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shared = {"data__validation": chat_file, "trainer__precision": precision}
    off = configure(dropping_folder, chat_file, tmp_path / "off", **shared)
    asked = {"samples__every": 2, "samples__count": 3, "samples__max_new_tokens": 9}
    on = configure(dropping_folder, chat_file, tmp_path / "on", **shared, **asked)
    run.fit(off, "test")
    assert "samples  " not in capsys.readouterr().out
    steps = run.fit(on, "test").steps
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("samples  ")]
    assert len(told) == 1
    assert "3 prompts answered in" in told[0]
    first, second = weights(tmp_path / "off"), weights(tmp_path / "on")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert rows(tmp_path / "off" / "metrics.csv") == rows(tmp_path / "on" / "metrics.csv")
    expected = sorted({*range(2, steps + 1, 2), steps})
    assert [row["step"] for row in samples(tmp_path / "on")] == [s for s in expected for _ in range(3)]
    assert not (tmp_path / "off" / "samples.jsonl").exists()


def test_answers_become_those_of_the_data_and_stand_in_the_table(
    tmp_path: Path, model_folder: Path, chat_file: Path, sampling: Recorder
) -> None:
    config = configure(
        model_folder,
        chat_file,
        tmp_path / "run",
        trainer__max_epochs=70,
        optim__lr=0.01,
        data__validation=chat_file,
        batch__tokens=400,
        samples__every=35,
        samples__max_new_tokens=30,
    )
    run.fit(config, "test")
    found = samples(tmp_path / "run")
    last = [row for row in found if row["step"] == found[-1]["step"]]
    assert len(last) == 4
    assert all(row["answer"] == row["reference"] and row["stopped_by"] == "<|user|>" for row in last)
    assert all(not row["prompt"].endswith(row["reference"]) for row in found)
    assert all(row["prompt"].endswith("<|assistant|>") for row in found)
    assert [table["key"] for table in sampling.tables] == ["samples"] * len({row["step"] for row in found})
    table = sampling.tables[-1]
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == last
    assert table["step"] == last[0]["step"]


def test_a_resumed_run_has_each_row_once(tmp_path: Path, model_folder: Path, chat_file: Path) -> None:
    folder = tmp_path / "run"
    settings = {"data__validation": chat_file, "batch__tokens": 100, "trainer__save_every": 2}
    settings |= {"trainer__keep": 9, "samples__every": 1, "samples__count": 2, "samples__max_new_tokens": 5}
    run.fit(configure(model_folder, chat_file, folder, **settings), "test")
    whole = (folder / "samples.jsonl").read_bytes()
    first, *later = sorted((folder / "checkpoints").iterdir())
    assert later
    for state in later:
        shutil.rmtree(state)
    run.fit(configure(model_folder, chat_file, folder, resume="auto", **settings), "test")
    assert (folder / "samples.jsonl").read_bytes() == whole
    assert first.is_dir()


def test_a_file_that_is_none_of_samples_is_kept(
    tmp_path: Path, store: ExampleStore, tokenizer: GlmTokenizer
) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("mine\n")
    callback = SampleAnswers(
        store, tokenizer, path, every=1, count=1, max_new_tokens=4, total=2, resumed_step=1
    )
    with pytest.raises(CheckpointError, match="Move it away"):
        callback.on_train_start(None, None)  # type: ignore[arg-type]
    assert path.read_text() == "mine\n"


def test_answering_leaves_the_model_as_it_was(
    model_folder: Path, store: ExampleStore, tokenizer: GlmTokenizer
) -> None:
    model = GlmForCausalLM.from_pretrained(model_folder).train()
    model.model.layers[0].eval()
    model.generation_config = {"do_sample": True, "temperature": 3.0, "num_beams": 4}
    modes = [module.training for module in model.modules()]
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    random = torch.get_rng_state()
    ids = [prompt.ids for prompt in choose_prompts(store, tokenizer, 3)]
    answers = answer_samples(model, tokenizer, ids, 5)
    assert len(answers) == 3
    assert all(1 <= answer.tokens <= 5 for answer in answers)
    assert [module.training for module in model.modules()] == modes
    assert model.generation_config["num_beams"] == 4
    assert torch.equal(torch.get_rng_state(), random)
    assert bool((model.lm_head.weight.grad == 1).all())
    model(torch.from_numpy(ids[0].astype(np.int64))[None]).logits.sum().backward()


def test_ranks_that_run_together_all_make_every_step(
    model_folder: Path, store: ExampleStore, tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = GlmForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # of equal scores the first is taken: token 0
    calls: list[int] = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    ids = [prompt.ids for prompt in choose_prompts(store, tokenizer, 2)]
    monkeypatch.setattr(type(tokenizer), "stop_token_ids", property(lambda _: [0]))
    alone = answer_samples(model, tokenizer, ids, 6)
    assert len(calls) == 1
    calls.clear()
    monkeypatch.setattr("glm_train.callbacks.samples.is_sharded", lambda _: True)
    together = answer_samples(model, tokenizer, ids, 6)
    assert len(calls) == 6
    assert together == alone
    assert [answer.tokens for answer in together] == [1, 1]


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_that_each_have_the_model_share_the_prompts(
    model_folder: Path,
    store: ExampleStore,
    tokenizer: GlmTokenizer,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
) -> None:
    model = GlmForCausalLM.from_pretrained(model_folder)
    ids = [prompt.ids for prompt in choose_prompts(store, tokenizer, 4)]
    alone = answer_samples(model, tokenizer, ids, 6)
    assert len({answer.written for answer in alone}) == 4
    monkeypatch.setattr("glm_train.dist.world_size", lambda: ranks)
    sent: list[list[list[int]]] = []

    def gather(own: list[list[int]]) -> list[list[list[int]]]:
        sent.append(own)
        if len(sent) < ranks:
            raise InterruptedError("waits for the others")
        return sent

    monkeypatch.setattr("glm_train.dist.gather_objects", gather)
    for rank in range(ranks):
        monkeypatch.setattr("glm_train.dist.rank", lambda rank=rank: rank)
        with suppress(InterruptedError):
            together = answer_samples(model, tokenizer, ids, 6)
    assert together == alone
    assert [len(own) for own in sent] == [len(ids[rank::ranks]) for rank in range(ranks)]
