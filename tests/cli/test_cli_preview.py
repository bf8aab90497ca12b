"""`glm-train preview` as a user runs it: text, JSON lines, a page, and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from glm_train.cli.main import main
from glm_train.preview.report import Preview, histogram
from glm_train.text.chat import encode_chat
from glm_train.text.tokenizer import GlmTokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def preview(model_folder: Path, chat_file: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `preview chat_smoke`; its exit code, standard output and standard error."""

    def run(*arguments: str, data: Path = chat_file) -> tuple[int, str, str]:
        given = [f"model.path={model_folder}", f"data.train={data}", "data.max_length=96"]
        code = main(["preview", "chat_smoke", *given, *arguments])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


def test_json_lines_are_the_examples_as_they_are_trained(
    preview: Run, model_folder: Path, chat_file: Path
) -> None:
    from glm_train.data.chat_formats import parse_messages

    code, out, _ = preview("--json", "data.validation_fraction=null")
    *examples, last = (json.loads(line) for line in out.splitlines())
    assert code == 0
    records = chat_file.read_text(encoding="utf-8").splitlines()
    assert [e["line"] for e in examples] == list(range(1, len(records) + 1))
    tokenizer = GlmTokenizer.from_pretrained(model_folder)
    for example, record in zip(examples, records, strict=True):
        expected = encode_chat(tokenizer, parse_messages(json.loads(record)))
        assert example["input_ids"] == expected.input_ids
        assert example["labels"] == expected.labels
        assert example["tokens"] == [tokenizer.id_to_token(i) for i in expected.input_ids]
        assert example["file"] == str(chat_file)
        assert example["split"] == "train"
    report = last["report"]
    assert report["train"]["tokens"] == sum(len(e["input_ids"]) for e in examples)
    assert report["train"]["trained"] == sum(label != -100 for e in examples for label in e["labels"])
    assert report["train"]["stops"] == {"<|user|>": report["train"]["answers"]}
    assert sum(count for *_, count in report["train"]["histogram"]) == len(examples)
    assert report["faults"] == []


def test_text_marks_what_is_trained_and_its_stop_tokens(preview: Run) -> None:
    code, out, _ = preview("--examples", "1", "data.validation_fraction=null")
    assert code == 0
    assert "<|user|>\nHello<|assistant|>⟦\nHi there.⟧⟪<|user|>⟫" in out
    assert re.search(r"^packing +\d+ microbatches an epoch, \d+\.\d\d% full$", out, re.MULTILINE)
    assert re.search(r"^train +11 examples, ", out, re.MULTILINE)


def test_a_page_holds_the_texts_escaped(preview: Run, tmp_path: Path) -> None:
    code, out, _ = preview("--html", str(tmp_path / "page.html"), "data.validation_fraction=null")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_data = seen.append  # type: ignore[method-assign]
    parser.feed(text)
    assert code == 0
    assert "page.html" in out
    assert "<script" not in text
    assert "http" not in text
    assert "<|user|>" in seen
    assert "\nHi there." in seen


def test_leakage_above_the_allowed_share_is_refused(preview: Run, chat_file: Path) -> None:
    both = f"data.validation={chat_file}"
    code, out, error = preview(both, "data.validation_fraction=null")
    assert code == 3
    assert "leakage: 11 of 11 validation examples (100.0%) are also in training" in error
    assert f"{chat_file}:1" in error
    assert "11 examples are also in training" in out
    assert preview(both, "data.validation_fraction=null", "--leakage", "1")[0] == 0


def test_prompts_with_another_answer_are_counted_and_no_fault(
    preview: Run, tmp_path: Path, chat_file: Path
) -> None:
    records = [json.loads(line) for line in chat_file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        record["messages"][-1]["content"] += " Indeed."
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    both = (f"data.validation={other}", "data.validation_fraction=null")
    code, out, _ = preview("--json", *both)
    report = json.loads(out.splitlines()[-1])["report"]
    assert code == 0
    assert report["validation_also_in_training"] == 0
    assert report["validation_prompts_in_training"] == len(records)
    assert report["first_prompts_in_training"][0] == f"{other}:1"
    line = f"{len(records)} more ask what training asks too (first: {other}:1"
    assert line in preview(*both)[1]
    page = tmp_path / "page.html"
    assert preview("--html", str(page), *both)[0] == 0
    assert line in page.read_text(encoding="utf-8")


def test_a_part_split_off_never_leaks(preview: Run, tmp_path: Path, chat_file: Path) -> None:
    twice = tmp_path / "twice.jsonl"
    twice.write_text(chat_file.read_text(encoding="utf-8") * 2, encoding="utf-8")
    code, out, _ = preview("--json", "data.validation_fraction=0.3", data=twice)
    report = json.loads(out.splitlines()[-1])["report"]
    assert code == 0
    assert report["validation"]["examples"] >= 6
    assert report["duplicates_in_training"] == report["train"]["examples"] // 2
    assert report["validation_also_in_training"] == 0


def test_everything_trained_breaks_no_rule(preview: Run) -> None:
    assert preview("data.train_on=all", "data.validation_fraction=null")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "-1"], "--examples -1"),
        (["--leakage", "2"], "--leakage 2"),
        (["--json", "--html", "a.html"], "choose one"),
        (["--html", "/no/such/folder/a.html"], "/no/such/folder/a.html"),
        (["data.formt=x"], "Did you mean 'format'"),
        (["data.train=none.jsonl"], "none.jsonl"),
    ],
)
def test_mistakes_are_told(preview: Run, arguments: list[str], message: str) -> None:
    code, _, error = preview(*arguments)
    assert code == 2
    assert message in error


def test_labels_that_break_a_rule_are_refused_with_their_place(
    preview: Run, monkeypatch: pytest.MonkeyPatch, chat_file: Path
) -> None:
    """As if the masks were wrong: the preview looks at labels only, so it finds it."""
    original = Preview.__init__

    def spoilt(self: Preview, *args: object, **kwargs: object) -> None:
        from glm_train.data.store import ExampleStore

        read = ExampleStore.__getitem__

        def with_header(store: ExampleStore, index: int) -> tuple[np.ndarray, np.ndarray]:
            ids, labels = read(store, index)
            labels = labels.copy()
            first = int(np.flatnonzero(labels != -100)[0])
            labels[first - 1] = ids[first - 1]
            return ids, labels

        monkeypatch.setattr(ExampleStore, "__getitem__", with_header)
        original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Preview, "__init__", spoilt)
    code, _, error = preview("data.validation_fraction=null")
    assert code == 3
    assert f"a turn's header is trained in 11 examples (first: {chat_file}:1" in error


def test_histogram_bins_double_and_cover_everything() -> None:
    assert histogram(np.array([1, 1, 2, 3, 4, 9])) == [(1, 1, 2), (2, 3, 2), (4, 7, 1), (8, 15, 1)]
    wide = histogram(np.array([1, 3, 2**20]))
    assert wide[0][0] == 1
    assert sum(n for *_, n in wide) == 3
    assert len(wide) == 12
