"""For any chat and any template of the family: the trained text is the assistant's text, and prompts are prefixes."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from text_templates import GLM_4_9B_CHAT, GLM_EDGE

from glm_train.text.chat import ChatTokens, Conversation, ExampleTooLong, Message, encode_chat, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer_folder

said = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "\n", " ", "北京"]), st.text(max_size=5)), max_size=4
).map(lambda parts: "".join(parts) or "x")
answer = said.filter(lambda text: bool(text.strip()))
flag = st.booleans()
user = st.builds(Message, st.just("user"), said)
text = st.builds(Message, st.just("assistant"), answer, train=flag)
call = st.builds(Message, st.just("assistant"), said, st.sampled_from(["f", "get_weather"]), flag)
result = st.builds(Message, st.just("observation"), said)
calls = st.builds(
    lambda c, r: [*c, *r], st.lists(call, min_size=1, max_size=2), st.lists(result, min_size=1, max_size=2)
)
exchange = st.builds(lambda u, c, t: [u, *chain(*c), t], user, st.lists(calls, max_size=2), text)
chats = st.builds(
    lambda system, exchanges: Conversation((*system, *chain(*exchanges))),
    st.lists(st.builds(Message, st.just("system"), said), max_size=1),
    st.lists(exchange, min_size=1, max_size=3),
)


@pytest.fixture(scope="module", params=[None, GLM_4_9B_CHAT], ids=["0414", "9b-chat"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    folder = tmp_path_factory.mktemp("properties")
    return GlmTokenizer.from_pretrained(make_tokenizer_folder(folder, template=request.param))


def trained_spans(tokenizer: GlmTokenizer, example: ChatTokens) -> list[str]:
    """The decoded stretches of trained tokens. A stop token ends one, even where the next begins at once."""
    stops = {tokenizer.special_tokens[f"<|{role}|>"] for role in ("user", "assistant", "observation")}
    spans: list[list[int]] = []
    going = False
    for label in example.labels:
        if label != -100:
            if not going:
                spans.append([])
            spans[-1].append(label)
        going = label != -100 and label not in stops
    return [tokenizer.decode(span) for span in spans]


def stop_after(conversation: Conversation, i: int) -> str:
    message = conversation.messages[i]
    following = conversation.messages[i + 1 :]
    if following:
        return f"<|{following[0].role}|>"
    return "<|observation|>" if message.is_tool_call else "<|user|>"


@settings(max_examples=100, deadline=None)
@given(conversation=chats)
def test_trained_spans_are_the_assistants_words(tokenizer: GlmTokenizer, conversation: Conversation) -> None:
    assume(any(message.train for message in conversation.messages if message.role == "assistant"))
    example = encode_chat(tokenizer, conversation)
    assert trained_spans(tokenizer, example) == [
        f"{message.metadata}\n{message.content}{stop_after(conversation, i)}"
        for i, message in enumerate(conversation.messages)
        if message.role == "assistant" and message.train
    ]


@settings(max_examples=60, deadline=None)
@given(conversation=chats)
def test_a_prompt_is_what_stands_before_the_answer(
    tokenizer: GlmTokenizer, conversation: Conversation
) -> None:
    trained = tuple(replace(message, train=True) for message in conversation.messages)
    for i, message in enumerate(trained):
        if message.role == "assistant" and trained[i - 1].role != "assistant":
            example = encode_chat(tokenizer, Conversation(trained[: i + 1]))
            prompt = encode_prompt(tokenizer, Conversation(trained[:i]))
            assert example.input_ids[: len(prompt)] == prompt
            assert example.labels[len(prompt) :] == example.input_ids[len(prompt) :]
            one = encode_chat(tokenizer, Conversation(trained[: i + 1]), train_on="last_assistant")
            assert one.labels == [-100] * len(prompt) + one.input_ids[len(prompt) :]


@settings(max_examples=60, deadline=None)
@given(conversation=chats, length=st.integers(1, 120))
def test_truncated_chats_keep_the_labels_of_whole_ones(
    tokenizer: GlmTokenizer, conversation: Conversation, length: int
) -> None:
    trained = Conversation(tuple(replace(message, train=True) for message in conversation.messages))
    whole = encode_chat(tokenizer, trained)
    try:
        got = encode_chat(tokenizer, trained, max_length=length)
    except ExampleTooLong:
        assert length < len(whole.input_ids)
        return
    assert len(got.input_ids) <= length
    if not got.cut:
        keeps = len(trained.messages) - got.dropped_messages
        system = [message for message in trained.messages if message.role == "system"]
        newest = trained.messages[len(trained.messages) - (keeps - len(system)) :]
        again = encode_chat(tokenizer, Conversation((*system, *newest)))
        assert (got.input_ids, got.labels) == (again.input_ids, again.labels)
        assert got.input_ids[-1] == whole.input_ids[-1]


@settings(max_examples=60, deadline=None)
@given(conversation=chats)
def test_edge_prompts_are_prefixes_where_no_line_break_merges(
    tmp_path_factory: pytest.TempPathFactory, conversation: Conversation
) -> None:
    folder = tmp_path_factory.getbasetemp() / "edge"
    tokenizer = GlmTokenizer.from_pretrained(
        folder if folder.is_dir() else make_tokenizer_folder(folder, template=GLM_EDGE)
    )
    plain = [
        message for message in conversation.messages if message.role != "observation" and not message.metadata
    ]
    assume(not plain[-1].content[0].isspace())
    chat = Conversation((*plain[:-1], replace(plain[-1], train=True)))
    prompt = encode_prompt(tokenizer, chat)
    example = encode_chat(tokenizer, chat, train_on="last_assistant")
    assert example.labels == [-100] * len(prompt) + example.input_ids[len(prompt) :]
    assert tokenizer.decode(example.labels[len(prompt) :]) == plain[-1].content + "<|user|>"
