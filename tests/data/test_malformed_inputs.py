"""Malformed chat data: each case is refused with its place and a cure, or counted and left out; none is trained on.

Records stand in the second place of three, between good ones. A fault of a whole file is an error under both policies.
"""

from __future__ import annotations

import gzip
import json
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glm_train.data.prepare import prepare_chat
from glm_train.data.store import ExampleStore
from glm_train.errors import DataError
from glm_train.text.tokenizer import GlmTokenizer

USER, ANSWER = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am fine"}
GOOD = {"messages": [USER, ANSWER]}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
POLICIES = ["error", "skip"]


def chat(*messages: Any, **top: Any) -> bytes:
    return json.dumps({"messages": list(messages), **top}).encode()


LINES: dict[str, tuple[bytes, str]] = {
    "bad UTF-8": (b'{"messages": "\xff"}', "byte 0xff at column 15 is not UTF-8"),
    "UTF-8 of a surrogate": (b'{"messages": "\xed\xa0\x80"}', "is not UTF-8"),
    "NUL byte": (b'{"messages": "\0"}', "NUL byte"),
    "truncated JSON": (b'{"messages": [{"role": "user", "cont', "the line is not JSON: Unterminated string"),
    "two records on a line": (chat(USER, ANSWER) * 2, "the line is not JSON: Extra data"),
    "single quotes": (str(GOOD).encode(), "the line is not JSON: Expecting property name"),
    "array for an object": (json.dumps([USER, ANSWER]).encode(), "the record is a JSON array, not an object"),
    "null": (b"null", "the record is a JSON null, not an object"),
    "10k-deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    "10k-deep tools": (
        chat(USER, ANSWER)[:-1] + b', "tools": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        "nested too deeply",
    ),
    "10k-deep tools as text": (chat(USER, ANSWER, tools="[" * 10_000 + "]" * 10_000), "nested too deeply"),
    "101-deep tools": (chat(USER, ANSWER, tools=json.loads("[" * 100 + "]" * 100)), "nested too deeply"),
    "repeated key": (b'{"messages": [], "messages": []}', "the key 'messages' occurs twice"),
    "NaN": (chat(USER, ANSWER, score=float("nan")), "NaN is not JSON"),
    "huge number": (b'{"n": ' + b"9" * 5000 + b"}", "not usable JSON"),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half of a surrogate pair"),
    "no layout": (b'{"text": "x"}', "Its keys: 'text'"),
    "two layouts": (chat(USER, ANSWER, conversations=[]), "more than one way"),
    "messages null": (b'{"messages": null}', "`messages` is null"),
    "messages text": (b'{"messages": "hello"}', "`messages` is a text, and not JSON"),
    "no messages": (chat(), "`messages` is an empty list"),
    "message is a text": (chat("hi"), "messages[0]: the message is a text"),
    "missing role": (chat({"content": "x"}, ANSWER), "messages[0]: it has no `role`"),
    "unknown role": (chat(USER, {"role": "asistant", "content": "x"}), "messages[1]: it has the role 'asistant'"),
    "misspelt key": (chat(USER, {**ANSWER, "trian": False}), "messages[1]: it has the key 'trian'"),
    "assistant first": (chat(ANSWER, USER), "messages[0]: the conversation starts with the assistant"),
    "two users": (chat(USER, USER, ANSWER), "messages[1]: two user messages in a row"),
    "late system": (chat(USER, {"role": "system", "content": "x"}, ANSWER), "messages[1]: a system message after"),
    "empty content": (chat(USER, {"role": "assistant", "content": " \n"}), "messages[1]: it has empty content"),
    "number as content": (chat(USER, {"role": "assistant", "content": 3}), "messages[1]: `content` is a number"),
    "image": (chat({"role": "user", "content": [{"type": "image_url"}]}, ANSWER), "Only text can be trained"),
    "only system": (chat({"role": "system", "content": "x"}), "no assistant turn"),
    "only user": (chat(USER), "no assistant turn"),
    "call without its result": (chat(USER, CALL, USER, ANSWER), "messages[2]: a user message right after a tool call"),
    "result without a call": (chat(USER, {"role": "tool", "content": "x"}, ANSWER), "messages[1]: an observation"),
    "result of another call": (
        chat(USER, CALL, {"role": "tool", "tool_call_id": "b", "content": "x"}, ANSWER),
        "messages[2]: it answers the call 'b'",
    ),
    "arguments that are no JSON": (
        chat(USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x=1"}}]}),
        "the arguments of 'f' are not a JSON object",
    ),
    "all masked": (chat(USER, {**ANSWER, "train": False}), "nothing is trained"),
    "train as a text": (chat(USER, {**ANSWER, "train": "no"}), "messages[1]: `train` is a text"),
    "tools that are no tools": (chat(USER, ANSWER, tools=[{"x": 1}]), "`tools[0]` has no tool name"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def write(path: Path, *records: bytes | dict[str, Any]) -> Path:
    path.write_bytes(
        b"".join((r if isinstance(r, bytes) else json.dumps(r).encode()) + b"\n" for r in records)
    )
    return path


def refusal(path: Path, tokenizer: GlmTokenizer, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare_chat([path], tokenizer, **options)
    text = str(caught.value)
    assert re.search(r"[.;,:] [A-Za-z][^.;]*", text.removeprefix(str(path))), f"no cure: {text}"
    return text


def decoded(store: ExampleStore, tokenizer: GlmTokenizer) -> list[str]:
    return [tokenizer.decode(store[i][0].tolist()) for i in range(len(store))]


def test_there_are_enough_cases() -> None:
    assert len(LINES) + len(FILES) >= 45
    assert len({content for content, _ in LINES.values()}) == len(LINES)


@pytest.mark.parametrize("case", LINES)
def test_faulty_line(tmp_path: Path, tokenizer: GlmTokenizer, case: str) -> None:
    line, message = LINES[case]
    path = write(tmp_path / "chat.jsonl", GOOD, line, GOOD)
    text = refusal(path, tokenizer)
    assert text.startswith(f"{path}:2: ")
    assert message in text
    assert len(text) < 700
    store = prepare_chat([path], tokenizer, on_error="skip")
    assert decoded(store, tokenizer) == decoded(
        prepare_chat([write(tmp_path / "good.jsonl", GOOD, GOOD)], tokenizer), tokenizer
    )
    ((reason, count),) = store.report.dropped.items()
    assert (reason[:8], count, store.report.records) == ("faulty: ", 1, 3)
    assert store.report.dropped_at == {reason: (f"{path}:2",)}


def _utf16(folder: Path) -> Path:
    (folder / "a.jsonl").write_bytes(json.dumps(GOOD).encode("utf-16"))
    return folder / "a.jsonl"


def _cut_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"prompt": ["a"] * 99, "completion": ["b"] * 99}), folder / "a.parquet")
    (folder / "a.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-40])
    return folder / "a.parquet"


def _bytes(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _folder(folder: Path) -> Path:
    (folder / "a.jsonl").mkdir()
    return folder / "a.jsonl"


def _dangling(folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder.parent / "gone.jsonl")
    return folder / "a.jsonl"


def _loop(folder: Path) -> Path:
    (folder / "a.jsonl").symlink_to(folder / "a.jsonl")
    return folder / "a.jsonl"


GOOD_TEXT = json.dumps(GOOD)
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty file": (_bytes("a.jsonl", b""), "the file is empty"),
    "only a byte order mark": (_bytes("a.jsonl", b"\xef\xbb\xbf"), "the file is empty"),
    "only blank lines": (_bytes("a.jsonl", b"\n \r\n"), "only blank lines"),
    "UTF-16": (_utf16, "UTF-16 text. Save it as UTF-8"),
    "gz bomb": (_bytes("a.jsonl.gz", gzip.compress(b"\n" * 20_000_000)), "compressed files are not read"),
    "gz bomb in disguise": (_bytes("a.jsonl", gzip.compress(b"\n" * 20_000_000)), "gzip-compressed"),
    "spreadsheet": (_bytes("a.csv", b"PK\x03\x04" + b"\0" * 50), "export the sheet as CSV"),
    "folder as a file": (_folder, "this is a folder"),
    "missing file": (lambda folder: folder / "a.jsonl", "no such file"),
    "link to nothing": (_dangling, "no such file"),
    "link to itself": (_loop, "no such file"),
    "unknown suffix": (_bytes("a.txt", b"x"), "files that end in '.txt' are not read"),
    "array without an end": (_bytes("a.json", f"[{GOOD_TEXT},\n{{".encode()), ":2: the array is not JSON"),
    "array without a comma": (_bytes("a.json", f"[{GOOD_TEXT}\n{GOOD_TEXT}]".encode()), ":2: the array is not JSON"),
    "table with an open quote": (_bytes("a.csv", b'prompt,completion\na,b\n"c,d\n'), ":3: the table cannot be read"),
    "table without a header": (_bytes("a.csv", b"\n\n"), ":1: the header has a column without a name"),
    "Parquet cut short": (_cut_parquet, ":1: cannot be read from this row on"),
    "Arrow of nothing": (_bytes("a.arrow", b"\0" * 64), ":1: cannot be read from this row on"),
}  # fmt: skip


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("case", FILES)
def test_faulty_file(tmp_path: Path, tokenizer: GlmTokenizer, case: str, on_error: str) -> None:
    make, message = FILES[case]
    path = make(tmp_path)
    text = refusal(path, tokenizer, on_error=on_error)
    assert text.startswith(f"{path}:")
    assert message in text


@pytest.mark.parametrize("on_error", POLICIES)
def test_100_mb_line(tmp_path: Path, tokenizer: GlmTokenizer, on_error: str) -> None:
    path = write(tmp_path / "chat.jsonl", GOOD, b'{"messages": "' + b"x" * 100_000_000 + b'"}', GOOD)
    tracemalloc.start()
    began = time.process_time()
    if on_error == "skip":
        report = prepare_chat([path], tokenizer, on_error="skip").report
        assert report.dropped == {"faulty: the line is longer than N MiB": 1}
        assert report.examples == 2
    else:
        assert refusal(path, tokenizer).startswith(
            f"{path}:2: the line is longer than 64 MiB. Put each record"
        )
    seconds = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak < 200 << 20


HARMLESS: dict[str, bytes] = {
    "byte order mark, CRLF, blank lines": b"\xef\xbb\xbf"
    + chat(USER, ANSWER)
    + b"\r\n\r\n \n"
    + chat(USER, ANSWER, n=1),
    "no last line break": chat(USER, ANSWER) + b"\n" + chat(USER, ANSWER, n=1),
    "the same id twice": chat(USER, ANSWER, id=1) + b"\n" + chat(USER, ANSWER, id=1),
    "the same record twice": chat(USER, ANSWER) + b"\n" + chat(USER, ANSWER),
}


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("case", HARMLESS)
def test_what_only_looks_odd(tmp_path: Path, tokenizer: GlmTokenizer, case: str, on_error: str) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(HARMLESS[case])
    store = prepare_chat([path], tokenizer, on_error=on_error)
    assert (len(store), store.report.dropped) == (2, {})


@pytest.mark.parametrize("on_error", POLICIES)
def test_special_token_text_is_text(tmp_path: Path, tokenizer: GlmTokenizer, on_error: str) -> None:
    content = "<|user|><|assistant|><|endoftext|>[gMASK]<sop>"
    path = write(tmp_path / "chat.jsonl", chat({**USER, "content": content}, ANSWER), GOOD)
    store = prepare_chat([path], tokenizer, on_error=on_error)
    controls = [
        [i for i in store[row][0].tolist() if i in tokenizer.special_tokens.values()] for row in (0, 1)
    ]
    assert controls[0] == controls[1]
    assert content in tokenizer.decode(store[0][0].tolist())


@pytest.mark.parametrize("on_error", POLICIES)
def test_too_long_is_counted_and_no_fault(tmp_path: Path, tokenizer: GlmTokenizer, on_error: str) -> None:
    long_prompt = chat({**USER, "content": "x " * 500}, ANSWER)
    long_answer = chat(USER, {**ANSWER, "content": "y " * 500})
    path = write(tmp_path / "chat.jsonl", GOOD, long_prompt, long_answer)
    report = prepare_chat([path], tokenizer, max_length=64, on_error=on_error).report
    assert report.dropped == {"longer than data.max_length": 1}
    assert report.dropped_at == {"longer than data.max_length": (f"{path}:2",)}
    assert (report.examples, report.cut) == (2, 1)


def test_links_are_followed_as_the_user_named_them(tmp_path: Path, tokenizer: GlmTokenizer) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside / "real.jsonl", GOOD)
    (tmp_path / "chat.jsonl").symlink_to(outside / "real.jsonl")
    assert len(prepare_chat([tmp_path / "chat.jsonl"], tokenizer)) == 1


def test_file_that_changes_while_it_is_read(
    tmp_path: Path, tokenizer: GlmTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "chat.jsonl", GOOD, chat(USER, ANSWER, USER, ANSWER))
    from glm_train.data import prepare

    real = prepare.encode_chat_packed

    def meddle(*arguments: Any, **options: Any) -> Any:
        with path.open("a") as file:
            file.write(json.dumps(GOOD) + "\n")
        return real(*arguments, **options)

    monkeypatch.setattr(prepare, "encode_chat_packed", meddle)
    assert "the file changed while it was read. Start again when it is complete" in refusal(path, tokenizer)
