"""`glm-train generate`: its drawing options reach the model, and bad ones end with a message and exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.cli.main import main
from glm_train.generate import Talker, _TextStream
from glm_train.text.chat import Message
from glm_train.text.tokenizer import GlmTokenizer


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the model was asked to do, call by call."""
    from glm_train import GlmForCausalLM

    calls: list[dict[str, Any]] = []
    generate = GlmForCausalLM.generate

    def listening(self: Any, *args: Any, **arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        return generate(self, *args, **arguments)

    monkeypatch.setattr(GlmForCausalLM, "generate", listening)
    return calls


def answers(model: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["generate", str(model), "--prompt", "Hello", "--max-new-tokens", "8", *arguments]) == 0
    return capsys.readouterr().out


def test_drawing_options_reach_the_model(
    model_folder: Path, capsys: pytest.CaptureFixture[str], asked: list[dict[str, Any]]
) -> None:
    options = {
        "temperature": 1.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.01,
        "repetition_penalty": 1.3,
        "seed": 4,
    }
    answers(model_folder, capsys, *(f"--{k.replace('_', '-')}={v}" for k, v in options.items()))
    assert {name: asked[0][name] for name in options} == options
    assert asked[0]["do_sample"] is True


def test_without_a_temperature_it_is_greedy_whatever_the_folder_says(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = answers(model_folder, capsys)
    folder = tmp_path / "released"
    shutil.copytree(model_folder, folder)
    stated = json.loads((folder / "generation_config.json").read_text())
    released = {"do_sample": True, "temperature": 5.0, "top_p": 0.8, "max_length": 128000}
    (folder / "generation_config.json").write_text(json.dumps(stated | released))
    assert answers(folder, capsys) == greedy
    penalised = answers(model_folder, capsys, "--repetition-penalty", "4")
    assert penalised != greedy
    (folder / "generation_config.json").write_text(json.dumps(stated | {"repetition_penalty": 4.0}))
    assert answers(folder, capsys) == penalised


def test_a_seed_reproduces_and_the_default_is_zero(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = [
        answers(model_folder, capsys, "--temperature=3", *more) for more in ([], ["--seed=0"], ["--seed=1"])
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--min-p", "0.1"], "--min-p needs --temperature"),
        (["--top-k", "0"], "--top-k needs --temperature"),
        (["--temperature", "1", "--min-p", "1.5"], "--min-p 1.5: must be from 0 to 1"),
        (["--temperature", "1", "--min-p", "nan"], "--min-p nan: must be from 0 to 1"),
        (["--temperature", "1", "--top-k", "-1"], "--top-k -1: must be at least 1, or 0 for all tokens"),
        (["--temperature", "1", "--top-p", "0"], "--top-p 0.0: must be above 0"),
        (["--temperature", "inf"], "--temperature inf: must be from 0.01 to 100"),
        (["--temperature", "1", "--seed", str(2**63)], "must be from 0 to 2**63 - 1"),
        (["--repetition-penalty", "0"], "--repetition-penalty 0.0: must be from 0.01 to 100"),
        (["--repetition-penalty", "-2"], "--repetition-penalty -2.0"),
        (["--repetition-penalty", "nan"], "--repetition-penalty nan"),
    ],
)
def test_options_without_meaning_are_refused_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert main(["generate", "no/such/model", "--prompt", "a", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


@pytest.mark.parametrize("arguments", [["--min-p", "much"], ["--repetition-penalty"], ["--top-k", "2.5"]])
def test_options_that_are_no_numbers_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["generate", "no/such/model", *arguments])
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_folder_that_states_nonsense_is_named(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(model_folder, folder)
    stated = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(stated | {"top_p": 80}))
    assert main(["generate", str(folder), "--prompt", "a", "--temperature", "1"]) == 2
    assert "generation_config: top_p must be above 0 and at most 1, found 80" in capsys.readouterr().err


def test_streamed_pieces_are_the_answer(model_folder: Path) -> None:
    pieces: list[str] = []
    talker = Talker(str(model_folder), device="cpu")
    reply = talker.answer(
        [Message("user", "你好")], on_text=pieces.append, temperature=2.0, seed=3, max_new_tokens=60
    )
    assert "".join(pieces) == reply.text
    assert len(pieces) > 5


def test_a_character_is_shown_when_its_last_byte_has_come(tiny_tokenizer_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    ids = tokenizer.encode("\n🙂a龘") + tokenizer.encode("龘")[:1]
    shown: list[str] = []
    stream = _TextStream(tokenizer, [0], shown.append)
    for token in ids:
        stream(torch.tensor([token]))
    assert "".join(shown) == "🙂a龘"
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in shown)
    stream.end()
    assert shown[-1].endswith("\N{REPLACEMENT CHARACTER}")
