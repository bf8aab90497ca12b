"""`glm-train generate` as a chat: commands, calls and their results, files of chats; a scripted model answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_train.cli.chat_session import ChatSession, typed_texts
from glm_train.cli.main import main
from glm_train.errors import DataError
from glm_train.generate import Talker, _TextStream
from glm_train.text.answers import Answer, parse_parts, read_answer
from glm_train.text.chat import Message
from glm_train.text.tokenizer import GlmTokenizer

TOOL = {"type": "function", "function": {"name": "get_weather", "description": "w", "parameters": {}}}


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets the model write the given answers, one a prompt; gives the list that fills with the prompts' texts."""

    def script(*answers: str) -> list[str]:
        from glm_train import GlmForCausalLM

        prompts: list[str] = []
        waiting = iter(answers)

        def write(
            self: Any, ids: torch.Tensor, *, streamer: Any, eos_token_id: list[int], **_: Any
        ) -> torch.Tensor:
            tokenizer = writer["tokenizer"]
            prompts.append(tokenizer.decode(ids[0]))
            made = _with_control(tokenizer, next(waiting))
            for token in made:
                streamer(torch.tensor([token]))
            return torch.cat((ids, torch.tensor([made])), dim=1)

        writer: dict[str, GlmTokenizer] = {}
        begin = Talker.__init__

        def begun(self: Talker, *arguments: Any) -> None:
            begin(self, *arguments)
            writer["tokenizer"] = self.tokenizer

        monkeypatch.setattr(Talker, "__init__", begun)
        monkeypatch.setattr(GlmForCausalLM, "generate", write)
        return prompts

    return script


def _with_control(tokenizer: GlmTokenizer, text: str) -> list[int]:
    """The ids of a text in which control tokens are meant."""
    return tokenizer.encode(text, add_special_tokens=False)


@pytest.fixture
def typing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_call_is_shown_and_its_result_goes_back(
    model_folder: Path,
    tmp_path: Path,
    scripted: Callable[..., list[str]],
    typing: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([TOOL]))
    prompts = scripted(
        '\nI look.<|assistant|>get_weather\n{"city": "北京"}<|observation|>',
        "\nSunny.<|user|>",
        "\nBye.<|user|>",
    )
    typing("Weather?\nand?\n/tool 31 degrees\n\n/reset\nBye\n/quit\nnever asked\n")
    assert main(["generate", str(model_folder), "--tools", str(tools), "--system", "Be kind."]) == 0
    out = capsys.readouterr().out
    assert "I look." in out
    assert 'calls get_weather\n    {\n      "city": "北京"\n    }\n' in out
    assert "stopped by <|observation|>" in out
    assert "[the model waits for the result of get_weather: /tool RESULT, or /reset]" in out
    assert "Sunny." in out
    assert "get_weather\n{" not in out
    assert len(prompts) == 3
    assert prompts[0].endswith("<|system|>\nBe kind.<|user|>\nWeather?<|assistant|>")
    assert '"name": "get_weather"' in prompts[0]
    assert prompts[1].endswith(
        "<|assistant|>\nI look.<|assistant|>get_weather\n"
        '{"city": "北京"}<|observation|>\n31 degrees<|assistant|>'
    )
    assert "Weather" not in prompts[2]
    assert "Be kind." in prompts[2]


def test_chats_and_prompts_of_a_file_are_answered_one_after_the_other(
    model_folder: Path, tmp_path: Path, scripted: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    chats = tmp_path / "chats.jsonl"
    records = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "SECRET"}]},
        {
            "messages": [{"role": "system", "content": "Mine."}, {"role": "user", "content": "你好"}],
            "tools": [TOOL],
        },
    ]
    chats.write_text("".join(json.dumps(record) + "\n" for record in records))
    prompts = scripted("\nA<|user|>", "\nB<|user|>", "\nC<|user|>", "\nD<|user|>")
    assert main(["generate", str(model_folder), "--file", str(chats), "--system", "Given."]) == 0
    assert "> Hi\nA\n" in capsys.readouterr().out
    assert "SECRET" not in "".join(prompts)
    assert prompts[0].endswith("<|system|>\nGiven.<|user|>\nHi<|assistant|>")
    assert "Given." not in prompts[1]
    assert "get_weather" in prompts[1]
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\ntwo\n")
    assert main(["generate", str(model_folder), "--file", str(lines)]) == 0
    assert [prompt.rpartition("<|user|>")[2] for prompt in prompts[2:]] == [
        "\none<|assistant|>",
        "\ntwo<|assistant|>",
    ]


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        (None, ["--file", "FILE"], "no such file"),
        ("", ["--file", "FILE"], "the file is empty"),
        ("\n \n", ["--file", "FILE"], "it asks nothing"),
        ('{"messages": []}\n', ["--file", "FILE.jsonl"], "FILE.jsonl:1: "),
        ("{}\n", ["--file", "FILE.jsonl"], "FILE.jsonl:1: "),
        ("a\n", ["--file", "FILE", "--prompt", "b"], "--prompt and --file are two ways to ask"),
        (None, ["--tools", "FILE", "--prompt", "a"], "--tools FILE: cannot be read as JSON: No such file"),
        ("[", ["--tools", "FILE", "--prompt", "a"], "--tools FILE: cannot be read as JSON"),
        ("[]", ["--tools", "FILE", "--prompt", "a"], "--tools FILE: it holds no tool"),
        ('[{"type": "function"}]', ["--tools", "FILE", "--prompt", "a"], "`tools[0]` has no tool name"),
        ('"x"', ["--tools", "FILE", "--prompt", "a"], "--tools FILE: "),
        ("7", ["--tools", "FILE", "--prompt", "a"], "not a list of tools"),
    ],
)
def test_files_that_ask_nothing_are_refused(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        for name in ("FILE", "FILE.jsonl"):
            Path(name).write_text(content)
    assert main(["generate", str(model_folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error


def test_a_conversation_that_fills_the_context_is_refused(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(model_folder), "--prompt", "a b c " * 300]) == 2
    assert "and the model's context 256: nothing is left for an answer" in capsys.readouterr().err


def scripted_session(
    *answers: Answer | Exception | type[BaseException],
) -> tuple[ChatSession, list[list[str]]]:
    asked: list[list[str]] = []
    waiting = iter(answers)

    def answer(messages: Sequence[Message]) -> Answer:
        asked.append([message.content for message in messages])
        found = next(waiting)
        if isinstance(found, Answer):
            return found
        raise found

    return ChatSession(answer), asked


def said(*parts: str, stopped_by: str = "<|user|>") -> Answer:
    return Answer(parse_parts(parts, stopped_by), stopped_by, 3, "".join(parts))


def test_several_calls_get_their_results_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    session, asked = scripted_session(said("f\n{}", "g\n{}", stopped_by="<|observation|>"), said("\nDone."))
    for line in ("go", "/tool one", "/tool two"):
        assert session.take(line)
    assert asked == [["go"], ["go", "{}", "{}", "one", "two"]]
    assert session.history[-1] == Message("assistant", "Done.")
    assert "[now the result of g: /tool RESULT]" in capsys.readouterr().out
    session.take("/tool three")
    assert "[no tool was called]" in capsys.readouterr().out


def test_what_was_not_answered_was_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    session, asked = scripted_session(KeyboardInterrupt, DataError("too long"), said("\n"), said("\nYes."))
    for line in ("one", "two", "three", "four"):
        session.take(line)
    assert asked == [["one"], ["two"], ["three"], ["four"]]
    assert [message.content for message in session.history] == ["four", "Yes."]
    out = capsys.readouterr().out
    assert "[stopped; this was not asked]" in out
    assert "[too long]" in out


def test_commands_change_what_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    session, asked = scripted_session(*[said("\nOk.")] * 4)
    session.take("/system Be brief.")
    session.take("//usr/bin")
    session.take("/system")
    session.take("next")
    assert asked == [["Be brief.", "/usr/bin"], ["/usr/bin", "Ok.", "next"]]
    session.take("/rest")
    session.take("/help")
    out = capsys.readouterr().out
    assert "[/rest: no such command. Did you mean '/reset'? /help lists them]" in out
    assert "/tool RESULT" in out
    assert not session.take("/quit")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a\n\n  \nb\n", ["a", "b"]),
        ('"""\na\n\nb\n"""\nc\n', ["a\n\nb", "c"]),
        ('"""a\nb"""\n', ["a\nb"]),
        ('"""one line"""\n', ["one line"]),
        ('a\n"""\nnever ended\n', ["a"]),
    ],
)
def test_text_of_several_lines_stands_in_quotes(
    typing: Callable[[str], None], typed: str, expected: list[str]
) -> None:
    typing(typed)
    assert list(typed_texts()) == expected


@pytest.mark.parametrize(
    ("text", "shown", "at_once"),
    [
        ("\nHello world, 你好<|user|>", "Hello world, 你好", True),
        ("\nYes<|user|>", "Yes", False),
        ('get_weather\n{"a": 1}<|observation|>', "", False),
        ('\nI look.<|assistant|>get_weather\n{"a": 1}<|observation|>', "I look.", True),
        ("\nOne.<|assistant|>\nTwo.<|user|>", "One.\nTwo.", True),
        ('get_weather\n{"a": 1}<|user|>', 'get_weather\n{"a": 1}', False),
        ("get_weather\nis a tool.<|user|>", "get_weather\nis a tool.", True),
        ("\nYes", "Yes", False),
        ("<|user|>", "", False),
    ],
)
def test_text_is_shown_as_it_comes_and_calls_are_held_back(
    tiny_tokenizer_folder: Path, text: str, shown: str, at_once: bool
) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    stops = tokenizer.stop_token_ids
    ids = _with_control(tokenizer, text)
    pieces: list[str] = []
    stream = _TextStream(tokenizer, stops, pieces.append)
    for token in ids:
        stream(torch.tensor([token]))
    assert bool(pieces) == at_once
    stream.end()
    assert "".join(pieces) == shown
    assert read_answer(tokenizer, ids, stops).text == shown
