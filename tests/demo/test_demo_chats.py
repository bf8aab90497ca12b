"""Reading and selecting the chat corpus: odd entries are counted, and every question has one answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from glm_train.demo import chats, selection, sources
from glm_train.demo.chats import Chat
from glm_train.errors import ConfigError

ODD_ENTRIES = """\
categories:
- trivia
conversations:
- - Is water dry?
  - No
- - When was that?
  - 1963
- - A question nobody answers
- - Hello
  - Hi
  - How are you?
- - ''
  - An answer to nothing
- - say <|user|>
  - no
- not a conversation
- - an answer with a colon: is a mapping
  - yes
- - '  spaces around  '
  - "fine\\n"
"""


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus with one category of each kind, in place of the installed one."""
    folder = tmp_path / "data" / "english"
    folder.mkdir(parents=True)
    (folder / "trivia.yml").write_text(ODD_ENTRIES, encoding="utf-8")
    (folder / "computers.yml").write_text(
        "conversations:\n- [What is it?, First, Second, Third]\n", encoding="utf-8"
    )
    monkeypatch.setattr(sources.Source, "folder", lambda self: tmp_path)
    monkeypatch.setattr(selection, "CATEGORIES", {"english": ("trivia", "computers")})
    return folder


def test_reading_keeps_text_as_it_stands_and_counts_the_rest(corpus: Path) -> None:
    dropped: Counter[str] = Counter()
    read = [chat.messages for chat in chats.read_corpus(dropped)]
    assert read == [
        ("Is water dry?", "No"),
        ("When was that?", "1963"),
        ("Hello", "Hi"),
        ("spaces around", "fine"),
        ("What is it?", "First"),
    ]
    assert dropped == {
        "last message, which nobody answers": 2,
        "conversation with an empty message": 1,
        "conversation that spells a control token": 1,
        "entry that is not a list of texts": 2,
        "further answer to the same question": 2,
    }


@pytest.mark.parametrize(
    "text", ["conversations: [unclosed", "- only\n- a list\n", "conversations: text\n", ""]
)
def test_a_broken_corpus_file_is_named(corpus: Path, text: str) -> None:
    (corpus / "trivia.yml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trivia\.yml"):
        chats.read_corpus(Counter())


def test_a_missing_corpus_file_is_named_with_the_cure(corpus: Path) -> None:
    (corpus / "computers.yml").unlink()
    with pytest.raises(ConfigError, match=r'computers\.yml.*pip install "glm-train\[demo\]"'):
        chats.read_corpus(Counter())


def _chat(*messages: str, category: str = "trivia") -> Chat:
    return Chat("english", category, messages)


def test_the_first_answer_stays_and_longer_conversations_go_on_from_it() -> None:
    long = _chat("hello", "hi", "how are you", "well")
    first, other, again = _chat("Hello.", "hi"), _chat("HELLO", "good day"), _chat("Hello.", "hi")
    dropped: Counter[str] = Counter()
    assert chats.select([first, other, again, long], dropped) == [first, long]
    assert dropped == {
        "another answer to a question already kept": 1,
        "repeat of a conversation already kept": 1,
    }


def test_what_nobody_should_meet_is_left_out() -> None:
    dropped: Counter[str] = Counter()
    unsuitable = _chat("When will you die", "Never")
    long = _chat("Tell me all", "x" * (selection.LONGEST_ANSWER + 1))
    damaged, sound = _chat("How far is the sun?", "it"), _chat("how far is the sun", "93 million miles")
    assert chats.select([unsuitable, long, damaged, sound], dropped) == [sound]
    assert sum(dropped.values()) == 3


def test_questions_that_differ_in_case_and_closing_marks_are_one() -> None:
    assert chats.question_key("  What  is AI?! ") == chats.question_key("what is ai")
    assert chats.question_key("你好。") == chats.question_key("你好")
    assert chats.question_key("what is ai") != chats.question_key("what is it")


def test_topics_keep_one_label_per_question_and_hold_out_a_share_of_each() -> None:
    corpus = [_chat(f"sport {i}", "a", category="sports") for i in range(20)]
    corpus += [_chat(f"food {i}", "a", category="food") for i in range(40)]
    corpus += [_chat("Sport 3?", "b", category="food"), _chat("alone", "a", category="health")]
    corpus += [Chat("chinese", "food", ("吃什么", "电"))]
    train, validation = chats.topics(corpus)
    assert Counter(label for _, label in train) == {"sports": 17, "food": 34}
    assert Counter(label for _, label in validation) == {"sports": 3, "food": 6}
    assert not {text for text, _ in train} & {text for text, _ in validation}
