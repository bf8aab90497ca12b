"""Reasoning under templates that leave it out: what is trained is what a server asks the model for."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_chat_cases import (
    NEWLINE_0414,
    REASONING_SINCE_LAST_QUESTION,
    WEATHER,
    Z1_WITH_TOOLS,
    marked,
    tokenizer_of,
)
from text_templates import GLM_4_9B_CHAT, GLM_EDGE, GLM_Z1

from glm_train.errors import DataError
from glm_train.text.chat import Conversation, Message, encode_chat, encode_prompt
from glm_train.text.chat_thinking import still_to_write
from glm_train.text.tokenizer import GlmTokenizer

HI, BYE, HELLO = Message("user", "hi"), Message("user", "bye"), Message("assistant", "Hello")
THOUGHT = Message("assistant", "<think>the is</think>Hello")
AGAIN = Message("assistant", "<think>no</think>\nyes")
CALL, RESULT = Message("assistant", "{}", "get_weather"), Message("observation", "31")
OPENED = "[gMASK] <sop> <|user|> Ċ h i <|assistant|> Ċ < t h in k >"


@pytest.fixture(scope="module", params=[GLM_Z1, Z1_WITH_TOOLS], ids=["short", "with tools"])
def z1(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("z1"), request.param)


def chat(*messages: Message) -> Conversation:
    return Conversation(messages)


def test_the_last_answer_is_trained_behind_its_own_prompt(z1: GlmTokenizer) -> None:
    example = encode_chat(z1, chat(HI, THOUGHT))
    assert marked(z1, example) == f"{OPENED} *the *Ġis *< */ *t *h *in *k *> *Hel *lo *<|user|>"
    prompt = encode_prompt(z1, chat(HI, THOUGHT))
    assert example.input_ids[: len(prompt)] == prompt
    assert z1.decode(prompt) == "[gMASK]<sop><|user|>\nhi<|assistant|>\n<think>"


@pytest.mark.parametrize("content", ["the is</think>Hello", " \n<think>the is</think>Hello"])
def test_the_opening_may_be_missing_or_stand_behind_white_space(z1: GlmTokenizer, content: str) -> None:
    assert encode_chat(z1, chat(HI, Message("assistant", content))) == encode_chat(z1, chat(HI, THOUGHT))


def test_earlier_answers_are_context_without_their_reasoning(z1: GlmTokenizer) -> None:
    talk = chat(HI, THOUGHT, BYE, AGAIN)
    example = encode_chat(z1, talk, train_on="last_assistant")
    assert marked(z1, example) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> Ċ Hel lo <|user|> Ċ b y e <|assistant|> Ċ < t h in k >"
        " *no *< */ *t *h *in *k *> *Ċ *y *es *<|user|>"
    )
    silent = Message("assistant", THOUGHT.content, train=False)
    assert encode_chat(z1, chat(HI, silent, BYE, AGAIN)) == example
    prompt = encode_prompt(z1, talk)
    assert example.labels == [-100] * len(prompt) + example.input_ids[len(prompt) :]


def test_an_earlier_answer_cannot_be_trained_without_its_reasoning(z1: GlmTokenizer) -> None:
    for first in (THOUGHT, HELLO):
        for train_on in ("assistant", "all"):
            with pytest.raises(
                DataError, match=r"messages\[1\]: .* earlier answers without their reasoning"
            ) as e:
                encode_chat(z1, chat(HI, first, BYE, AGAIN), train_on=train_on)
        assert "set data.train_on=last_assistant, mark it train: false" in str(e.value)


def test_an_answer_that_would_leave_the_reasoning_open_is_refused(z1: GlmTokenizer) -> None:
    with pytest.raises(DataError, match=r"messages\[1\]: .* ends with '\\n<think>', and this answer has no"):
        encode_chat(z1, chat(HI, HELLO))
    with pytest.raises(DataError, match=r"messages\[1\]: nothing follows </think>"):
        encode_chat(z1, chat(HI, Message("assistant", "<think>a</think>\n")))
    empty = encode_chat(z1, chat(HI, Message("assistant", "<think>\n</think>Hello")))
    assert marked(z1, empty).endswith("< t h in k > *Ċ *< */ *t *h *in *k *> *Hel *lo *<|user|>")


def test_truncation_keeps_the_prompt_that_opens_the_reasoning(z1: GlmTokenizer) -> None:
    talk = chat(HI, THOUGHT, BYE, AGAIN)
    newest = encode_chat(z1, chat(BYE, AGAIN))
    got = encode_chat(z1, talk, train_on="last_assistant", max_length=len(newest.input_ids))
    assert (got.input_ids, got.labels, got.dropped_messages) == (newest.input_ids, newest.labels, 2)
    cut = encode_chat(z1, talk, train_on="last_assistant", max_length=len(newest.input_ids) - 3)
    assert cut.input_ids == newest.input_ids[:-3]
    assert cut.cut
    assert not cut.stop_positions


def test_endoftext_and_all_for_an_answer_with_reasoning(z1: GlmTokenizer) -> None:
    ended = marked(z1, encode_chat(z1, chat(HI, THOUGHT), stop_token="endoftext"))
    assert ended == f"{OPENED} *the *Ġis *< */ *t *h *in *k *> *Hel *lo *<|endoftext|>"
    every = marked(z1, encode_chat(z1, chat(HI, THOUGHT), train_on="all"))
    assert every == ended.replace(" *", " ").replace(" ", " *").replace("*<sop>", "<sop>").replace(
        "*<|endoftext|>", "*<|user|>"
    )


def test_control_spellings_in_reasoning_are_text(z1: GlmTokenizer) -> None:
    example = encode_chat(z1, chat(HI, Message("assistant", "<think><|user|></think>x<|assistant|>")))
    assert z1.decode(example.input_ids) == (
        "[gMASK]<sop><|user|>\nhi<|assistant|>\n<think><|user|></think>x<|assistant|><|user|>"
    )
    users = [i for i, id_ in enumerate(example.input_ids) if id_ == z1.token_to_id("<|user|>")]
    assert users == [2, len(example.input_ids) - 1]


def test_tool_calls_of_a_template_that_opens_reasoning(tmp_path: Path) -> None:
    z1 = tokenizer_of(tmp_path, Z1_WITH_TOOLS)
    talk = Conversation((HI, CALL, RESULT, AGAIN), (WEATHER,))
    example = encode_chat(z1, talk, train_on="last_assistant")
    assert z1.decode(example.input_ids).endswith(
        "<|user|>\nhi<|assistant|>get_weather\n{}<|observation|>\n31<|assistant|>\n<think>no</think>\nyes<|user|>"
    )
    with pytest.raises(DataError, match=r"messages\[1\]: .* a tool call does not begin so.* train: false"):
        encode_chat(z1, talk)


def test_tool_call_behind_a_generation_prompt_with_a_line_break(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, NEWLINE_0414)
    assert marked(tokenizer, encode_chat(tokenizer, chat(HI, HELLO))).endswith(
        "<|assistant|> Ċ *Hel *lo *<|user|>"
    )
    with pytest.raises(
        DataError, match=r"messages\[1\]: .* ends with '\\n', and a tool call does not begin so"
    ):
        encode_chat(tokenizer, chat(HI, CALL, RESULT, HELLO))
    silent = Message("assistant", "{}", "get_weather", train=False)
    assert marked(tokenizer, encode_chat(tokenizer, chat(HI, silent, RESULT, HELLO))).endswith(
        "<|assistant|> get _weather Ċ { } <|observation|> Ċ 31 <|assistant|> Ċ *Hel *lo *<|user|>"
    )


def test_a_call_that_the_model_makes_by_itself_has_no_prompt(tmp_path: Path) -> None:
    """Behind its own text it writes the header, and so the whole of the call."""
    tokenizer = tokenizer_of(tmp_path, NEWLINE_0414)
    example = encode_chat(tokenizer, chat(HI, HELLO, CALL, RESULT, HELLO))
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> Ċ *Hel *lo *<|assistant|> *get *_weather *Ċ *{ *}"
        " *<|observation|> Ċ 31 <|assistant|> Ċ *Hel *lo *<|user|>"
    )


def test_reasoning_under_a_template_that_writes_behind_it_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, GLM_Z1.replace(".strip() -}}", ".strip() + '[end]' -}}"))
    with pytest.raises(
        DataError, match=r"messages\[1\]: .* writes '\[end\]' after it, so what a server expects"
    ):
        encode_chat(tokenizer, chat(HI, THOUGHT))


@pytest.mark.parametrize("source", [None, GLM_4_9B_CHAT, GLM_EDGE])
def test_templates_that_keep_reasoning_train_it_in_every_answer(tmp_path: Path, source: str | None) -> None:
    tokenizer = tokenizer_of(tmp_path, source)
    text = marked(tokenizer, encode_chat(tokenizer, chat(HI, THOUGHT, BYE, AGAIN)))
    assert "*< *t *h *in *k *> *the *Ġis *< */ *t *h *in *k *> *Hel *lo *<|user|>" in text
    assert text.endswith("*< *t *h *in *k *> *no *< */ *t *h *in *k *> *Ċ *y *es *<|user|>")


def test_history_that_changes_with_the_next_question(tmp_path: Path) -> None:
    """The reasoning before a call is gone from the text once the user speaks again."""
    tokenizer = tokenizer_of(tmp_path, REASONING_SINCE_LAST_QUESTION)
    talk = (HI, Message("assistant", "<think>a</think>{}", "get_weather"), RESULT, HELLO)
    example = encode_chat(tokenizer, chat(*talk), train_on="last_assistant")
    assert tokenizer.decode(example.input_ids).endswith(
        "<think>a</think>{}<|observation|>\n31<|assistant|>\nHello<|user|>"
    )
    with pytest.raises(DataError, match=r"messages\[1\]: .* what stands before this turn otherwise"):
        encode_chat(tokenizer, chat(*talk))
    with pytest.raises(DataError, match=r"messages\[1\]: .* earlier answers without their reasoning"):
        encode_chat(tokenizer, chat(HI, THOUGHT, BYE, AGAIN))


OTHER_HEADER = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
OTHER_HEADER += "{% if add_generation_prompt %}<|assistant|>SUFFIX{% endif %}"
CLOSED = GLM_Z1.replace("<think>'", "<think></think>'")


@pytest.mark.parametrize(
    ("source", "given"), [(OTHER_HEADER.replace("SUFFIX", "\n"), "\n"), (CLOSED, "\n<think></think>")]
)
@pytest.mark.parametrize("answer", [HELLO, THOUGHT])
def test_an_answer_that_its_prompt_does_not_begin_is_refused(
    tmp_path: Path, source: str, given: str, answer: Message
) -> None:
    tokenizer = tokenizer_of(tmp_path, source)
    with pytest.raises(DataError) as e:
        encode_chat(tokenizer, chat(HI, answer))
    assert f"ends with {given!r}, and the template writes this answer otherwise" in str(e.value)


def test_a_template_that_refuses_the_probe_is_taken_at_its_word(tmp_path: Path) -> None:
    strict = "{% if messages|length > 4 %}{{ raise_exception('too many') }}{% endif %}"
    tokenizer = tokenizer_of(tmp_path, strict + OTHER_HEADER.replace("SUFFIX", ""))
    text = marked(tokenizer, encode_chat(tokenizer, chat(HI, HELLO, BYE, HELLO)))
    assert text.count("*Hel *lo *<|user|>") == 2
    with pytest.raises(DataError, match="too many"):
        encode_chat(tokenizer, chat(HI, HELLO, BYE, HELLO, BYE, HELLO))


@pytest.mark.parametrize(
    ("content", "given", "lead", "left"),
    [
        ("<think>a</think>b", "\n<think>", "\n", "a</think>b"),
        ("a</think>b", "\n<think>", "\n", "a</think>b"),
        ("<think>\na</think>b", "<think>\n", "", "a</think>b"),
        ("<think>a</think>b", "<think>\n", "", "a</think>b"),
        ("<think>a</think>b", "", "\n", "\n<think>a</think>b"),
        ("<think>a</think>b", "\n", "\n", "<think>a</think>b"),
    ],
)
def test_what_is_left_to_write(content: str, given: str, lead: str, left: str) -> None:
    assert still_to_write(content, given, lead) == left
