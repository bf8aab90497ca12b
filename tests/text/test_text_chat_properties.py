"""For any chat, template and choice: the trained text is the assistant's words and stop tokens, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from text_chat_cases import ANSWER, CALLS, TEMPLATES, conversations, label_spans, tokenizer_of

from glm_train.errors import DataError
from glm_train.text.chat import ChatTokens, Conversation, ExampleTooLong, Message, encode_chat, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer

CHOICES = st.fixed_dictionaries(
    {
        "train_on": st.sampled_from(["assistant", "last_assistant"]),
        "stop_token": st.sampled_from(["role", "endoftext"]),
    }
)


@pytest.fixture(scope="module", params=["0414", "9b-chat", "edge"])
def named(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, GlmTokenizer]:
    folder = tmp_path_factory.mktemp("properties")
    return request.param, tokenizer_of(folder, TEMPLATES[request.param])


@pytest.fixture(scope="module")
def z1(tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    return tokenizer_of(tmp_path_factory.mktemp("z1"), TEMPLATES["z1"])


def chats_for(name: str, data: Any) -> Conversation:
    chat: Conversation = data.draw(conversations(calls=name in CALLS, tools=name in CALLS))
    return chat


def all_trained(conversation: Conversation) -> Conversation:
    return replace(conversation, messages=tuple(replace(m, train=True) for m in conversation.messages))


def stop_after(messages: tuple[Message, ...], i: int, stop_token: str) -> str:
    """The stop token of an assistant message, from the words of the specification."""
    following = messages[i + 1].role if i + 1 < len(messages) else None
    if following == "assistant":
        return "<|assistant|>"
    if stop_token == "endoftext":
        return "<|endoftext|>"
    return "<|observation|>" if following == "observation" or messages[i].metadata else "<|user|>"


def trained_messages(conversation: Conversation, train_on: str) -> list[int]:
    assistants = [i for i, m in enumerate(conversation.messages) if m.role == "assistant"]
    chosen = assistants[-1:] if train_on == "last_assistant" else assistants
    return [i for i in chosen if conversation.messages[i].train]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), choice=CHOICES)
def test_trained_spans_are_the_assistants_words(
    named: tuple[str, GlmTokenizer], data: st.DataObject, choice: dict[str, str]
) -> None:
    name, tokenizer = named
    chat = chats_for(name, data)
    chosen = trained_messages(chat, choice["train_on"])
    if not chosen:
        with pytest.raises(DataError, match="nothing is trained"):
            encode_chat(tokenizer, chat, **choice)  # type: ignore[arg-type]
        return
    example = encode_chat(tokenizer, chat, **choice)  # type: ignore[arg-type]
    lead = "" if name == "edge" else "\n"  # GLM-Edge's generation prompt has written the line break
    assert [tokenizer.decode(span) for span in label_spans(example)] == [
        f"{chat.messages[i].metadata}{lead}{chat.messages[i].content}"
        f"{stop_after(chat.messages, i, choice['stop_token'])}"
        for i in chosen
    ]
    check_labels(tokenizer, example)
    controls = set(tokenizer.special_tokens.values())
    assert [i for i, label in enumerate(example.labels) if label in controls] == example.stop_positions


def check_labels(tokenizer: GlmTokenizer, example: ChatTokens) -> None:
    """A label is its token, or the end of the text in the place of a stop token."""
    assert len(example.labels) == len(example.input_ids)
    for i, (id_, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        if label not in (-100, id_):
            assert i in example.stop_positions
            assert (label, id_ in tokenizer.stop_token_ids) == (tokenizer.token_to_id("<|endoftext|>"), True)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), stop_token=st.sampled_from(["role", "endoftext"]))
def test_everything_is_trained_but_the_prefix_and_what_is_marked(
    named: tuple[str, GlmTokenizer], data: st.DataObject, stop_token: str
) -> None:
    name, tokenizer = named
    chat = chats_for(name, data)
    flags = data.draw(st.lists(st.booleans(), min_size=len(chat.messages), max_size=len(chat.messages)))
    messages = tuple(replace(m, train=flag) for m, flag in zip(chat.messages, flags, strict=True))
    assume(any(m.train and m.role != "system" for m in messages))
    expected = ""
    turns = tuple(m for m in messages if m.role != "system")
    for i, message in enumerate(turns):
        before = turns[i - 1] if i else None
        if before is None or before.role != "assistant":
            expected += f"<|{message.role}|>"
        elif before.train:
            expected += stop_after(turns, i - 1, stop_token)
        if message.train:
            expected += f"{message.metadata}\n{message.content}"
    if turns[-1].train:
        expected += stop_after(turns, len(turns) - 1, stop_token)
    example = encode_chat(tokenizer, Conversation(messages), train_on="all", stop_token=stop_token)
    text = tokenizer.decode([label for label in example.labels if label != -100])
    system = messages[0] if messages[0].role == "system" else None
    if system is not None and system.train and (system.content or name != "9b-chat"):
        expected = f"<|system|>\n{system.content}{expected}"
    if name == "edge" and (system is None or system.train):  # nothing stands before the first token
        expected = expected.partition("|>")[2]
    assert text == expected
    check_labels(tokenizer, example)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_prompt_is_what_stands_before_the_answer(
    named: tuple[str, GlmTokenizer], data: st.DataObject
) -> None:
    name, tokenizer = named
    chat = all_trained(chats_for(name, data))
    for i, message in enumerate(chat.messages):
        if message.role == "assistant" and chat.messages[i - 1].role != "assistant":
            example = encode_chat(tokenizer, replace(chat, messages=chat.messages[: i + 1]))
            prompt = encode_prompt(tokenizer, replace(chat, messages=chat.messages[:i]))
            one = encode_chat(
                tokenizer, replace(chat, messages=chat.messages[: i + 1]), train_on="last_assistant"
            )
            assert one.labels == [-100] * len(prompt) + one.input_ids[len(prompt) :]
            assert one.input_ids[: len(prompt)] == prompt
            if name != "edge":  # there the earlier answers are tokenised as what the model has written
                assert example.input_ids == one.input_ids


@settings(max_examples=30, deadline=None)
@given(data=st.data(), other=ANSWER)
def test_the_answer_has_no_part_in_its_prompt(
    named: tuple[str, GlmTokenizer], data: st.DataObject, other: str
) -> None:
    """Whatever the answer is, its prompt is the one of the conversation without it."""
    name, tokenizer = named
    chat = chats_for(name, data)
    prompt = encode_prompt(tokenizer, chat)
    questions = chat.messages
    while questions[-1].role == "assistant":
        questions = questions[:-1]
    assert prompt == encode_prompt(tokenizer, replace(chat, messages=questions))
    answered = replace(chat, messages=(*questions, Message("assistant", other)))
    assert prompt == encode_prompt(tokenizer, answered)
    assert tokenizer.decode(prompt).endswith("<|assistant|>\n" if name == "edge" else "<|assistant|>")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 120), choice=CHOICES)
def test_truncated_chats_keep_the_labels_of_whole_ones(
    named: tuple[str, GlmTokenizer], data: st.DataObject, length: int, choice: dict[str, str]
) -> None:
    name, tokenizer = named
    chat = chats_for(name, data)
    assume(trained_messages(chat, choice["train_on"]))
    whole = encode_chat(tokenizer, chat, **choice)  # type: ignore[arg-type]
    try:
        got = encode_chat(tokenizer, chat, max_length=length, **choice)  # type: ignore[arg-type]
    except ExampleTooLong:
        assert length < len(whole.input_ids)
        return
    assert len(got.input_ids) <= length
    assert got.dropped_tokens == len(whole.input_ids) - len(got.input_ids)
    check_labels(tokenizer, got)
    if len(whole.input_ids) <= length:
        assert got == whole
        return
    spans, kept = label_spans(whole), label_spans(got)
    # Newest exchanges whole, or the beginning of the newest one: a stretch of the spans, the last perhaps cut.
    stretches = [spans[i : i + len(kept)] for i in range(len(spans) - len(kept) + 1)]
    cut = [[*stretch[:-1], stretch[-1][: len(kept[-1])]] for stretch in stretches]
    assert kept in (cut if got.cut else stretches)
    assert got.cut == (len(got.stop_positions) < len(kept))
    turns = [tokenizer.special_tokens[f"<|{role}|>"] for role in ("user", "assistant", "observation")]
    assert next(id_ for id_ in got.input_ids if id_ in turns) == turns[0]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), thought=ANSWER, stop_token=st.sampled_from(["role", "endoftext"]))
def test_reasoning_is_trained_behind_the_prompt_that_opens_it(
    z1: GlmTokenizer, data: st.DataObject, thought: str, stop_token: str
) -> None:
    chat: Conversation = data.draw(conversations(calls=False))
    assume(all("</think>" not in m.content for m in chat.messages))
    *earlier, last = chat.messages
    reasoned = [
        replace(m, content=f"<think>{thought}</think>{m.content}") if m.role == "assistant" else m
        for m in (*earlier, replace(last, train=True))
    ]
    talk = Conversation(tuple(reasoned))
    example = encode_chat(z1, talk, train_on="last_assistant", stop_token=stop_token)
    prompt = encode_prompt(z1, talk)
    assert prompt == encode_prompt(z1, Conversation((*earlier,)))  # earlier reasoning is gone
    assert example.labels == [-100] * len(prompt) + example.input_ids[len(prompt) :]
    stop = "<|user|>" if stop_token == "role" else "<|endoftext|>"
    assert z1.decode(example.labels[len(prompt) :]) == f"{thought}</think>{last.content}{stop}"
