"""Long chats lose their oldest exchanges first, and a cut answer never gets a stop token."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_templates import GLM_4_9B_CHAT

from glm_train.errors import DataError
from glm_train.text.chat import ChatTokens, Conversation, ExampleTooLong, Message, encode_chat
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder

WEATHER = {"type": "function", "function": {"name": "get_weather"}}
SYSTEM = Message("system", "Be kind.")
TURNS = (
    Message("user", "first"),
    Message("assistant", "{}", "get_weather"),
    Message("observation", "31"),
    Message("assistant", "one"),
    Message("user", "second"),
    Message("assistant", "two"),
    Message("user", "third"),
    Message("assistant", "three four five"),
)


@pytest.fixture(scope="module", params=[None, GLM_4_9B_CHAT], ids=["0414", "9b-chat"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    folder = tmp_path_factory.mktemp("truncation")
    return GlmTokenizer.from_pretrained(make_tokenizer_folder(folder, template=request.param))


def encode(tokenizer: GlmTokenizer, *turns: Message, **options: object) -> ChatTokens:
    return encode_chat(tokenizer, Conversation((SYSTEM, *turns), (WEATHER,)), **options)  # type: ignore[arg-type]


def test_oldest_exchanges_go_first_and_only_as_many_as_needed(tokenizer: GlmTokenizer) -> None:
    whole, newer, newest = (encode(tokenizer, *TURNS[first:]) for first in (0, 4, 6))
    sizes = [len(example.input_ids) for example in (whole, newer, newest)]
    for length in range(sizes[2], sizes[0] + 2):
        got = encode(tokenizer, *TURNS, max_length=length)
        expected, dropped = (
            (whole, 0) if length >= sizes[0] else (newer, 4) if length >= sizes[1] else (newest, 6)
        )
        assert got.input_ids == expected.input_ids
        assert got.labels == expected.labels
        assert (got.dropped_messages, got.cut) == (dropped, False)


def test_an_answer_that_alone_is_too_long_is_cut_without_a_stop_token(tokenizer: GlmTokenizer) -> None:
    newest = encode(tokenizer, *TURNS[6:])
    trained = sum(label != -100 for label in newest.labels)
    size = len(newest.input_ids)
    for missing in range(1, trained):
        got = encode(tokenizer, *TURNS, max_length=size - missing)
        assert got.input_ids == newest.input_ids[:-missing]
        assert got.labels == newest.labels[:-missing]
        assert got.labels[-1] != tokenizer.special_tokens["<|user|>"]
        assert (got.dropped_messages, got.cut) == (6, True)
    with pytest.raises(ExampleTooLong, match=f"no trained token fits into data.max_length={size - trained}"):
        encode(tokenizer, *TURNS, max_length=size - trained)


def test_a_cut_keeps_what_was_trained_before_it(tokenizer: GlmTokenizer) -> None:
    long_result = (*TURNS[:2], Message("observation", "31 " * 50), TURNS[3])
    call = encode(tokenizer, *TURNS[:2])
    for length in (len(call.input_ids), len(call.input_ids) + 20):
        got = encode(tokenizer, *long_result, max_length=length)
        assert got.input_ids == call.input_ids  # up to the hand-over to the tool, which stands in the text
        assert got.labels == call.labels
        assert (got.dropped_messages, got.cut) == (2, False)  # the call is whole, the other two are not there


def test_messages_that_are_cut_away_whole_count_as_dropped(tokenizer: GlmTokenizer) -> None:
    turns = (*TURNS[:2], Message("observation", "31 " * 50), TURNS[3])
    whole = encode(tokenizer, *turns, train_on="all")
    head = whole.input_ids.index(tokenizer.token_to_id("<|user|>"))
    for length in range(head + 2, len(whole.input_ids)):
        got = encode(tokenizer, *turns, train_on="all", max_length=length)
        headers = [i for i, id_ in enumerate(got.input_ids) if id_ in tokenizer.stop_token_ids[1:]]
        headers += [i for i, id_ in enumerate(got.input_ids) if id_ == tokenizer.token_to_id("<|assistant|>")]
        assert got.dropped_messages == 4 - sum(i + 1 < length for i in headers)


def test_trailing_messages_count_as_dropped(tokenizer: GlmTokenizer) -> None:
    got = encode(tokenizer, *TURNS, Message("user", "bye"))
    assert got.input_ids == encode(tokenizer, *TURNS).input_ids
    assert got.dropped_messages == 1
    newest = len(encode(tokenizer, *TURNS[6:]).input_ids)
    assert encode(tokenizer, *TURNS, Message("user", "bye"), max_length=newest).dropped_messages == 7


def test_untrained_messages_at_the_end_go_first(tokenizer: GlmTokenizer) -> None:
    turns = (*TURNS[:7], Message("assistant", "three four five", train=False))
    size = len(encode(tokenizer, *turns).input_ids)
    trained, newer = encode(tokenizer, *TURNS[:6]), encode(tokenizer, *TURNS[4:6])
    for length in range(len(newer.input_ids), size):
        expected, dropped = (trained, 2) if length >= len(trained.input_ids) else (newer, 6)
        got = encode(tokenizer, *turns, max_length=length)
        assert (got.input_ids, got.labels) == (expected.input_ids, expected.labels)
        assert (got.dropped_messages, got.cut) == (dropped, False)
        assert got.dropped_tokens == size - len(got.input_ids)


def test_an_untrained_end_takes_no_room_from_older_exchanges(tokenizer: GlmTokenizer) -> None:
    turns = (*TURNS, TURNS[6], Message("assistant", "three four five", train=False))
    newer = encode(tokenizer, *TURNS[4:])
    for length in range(len(newer.input_ids), len(encode(tokenizer, *TURNS).input_ids)):
        got = encode(tokenizer, *turns, max_length=length)
        assert (got.input_ids, got.labels) == (newer.input_ids, newer.labels)
        assert (got.dropped_messages, got.cut) == (6, False)


def test_an_untrained_call_at_the_end_leaves_the_hand_over_to_it(tokenizer: GlmTokenizer) -> None:
    """The trained text before it still hands over to the assistant itself, not to the user."""
    call = Message("assistant", "{}", "get_weather", train=False)
    turns = (*TURNS[4:6], call, TURNS[2], Message("assistant", "done", train=False))
    whole = encode(tokenizer, *turns)
    got = encode(tokenizer, *turns, max_length=len(whole.input_ids) - 1)
    assert tokenizer.decode(got.input_ids).endswith("<|user|>\nsecond<|assistant|>\ntwo<|assistant|>")
    assert got.labels == whole.labels[: len(got.labels)]
    assert (got.dropped_messages, got.cut) == (3, False)


def test_what_is_kept_begins_with_a_user_and_holds_calls_with_their_results(tokenizer: GlmTokenizer) -> None:
    agent = (TURNS[4], TURNS[5], TURNS[6], *TURNS[1:4])  # the call, its result and the answer come last
    newest = encode(tokenizer, *agent[2:])
    for length in range(len(newest.input_ids), len(encode(tokenizer, *agent).input_ids)):
        got = encode(tokenizer, *agent, max_length=length)
        assert got.input_ids == newest.input_ids
        turns = tokenizer.decode(got.input_ids).split("<|user|>")
        assert turns[1].startswith("\nthird<|assistant|>get_weather\n{}<|observation|>\n31<|assistant|>")
    for length in range(len(newest.input_ids) - 1, 0, -1):  # one exchange: only its end can go
        try:
            got = encode(tokenizer, *agent, max_length=length)
        except ExampleTooLong:
            continue
        assert got.input_ids == newest.input_ids[: len(got.input_ids)]
        kept = [stop for stop in newest.stop_positions if stop < len(got.input_ids)]
        assert got.stop_positions == kept
        assert got.cut == (len(got.input_ids) - 1 not in kept)


def test_a_cut_of_everything_trained_ends_anywhere(tokenizer: GlmTokenizer) -> None:
    whole = encode(tokenizer, *TURNS[6:], train_on="all")
    head = whole.input_ids.index(tokenizer.token_to_id("<|user|>"))
    with pytest.raises(ExampleTooLong, match="no trained token fits"):
        encode(tokenizer, *TURNS[6:], train_on="all", max_length=head + 1)  # tools and system message only
    for length in range(head + 2, len(whole.input_ids)):
        got = encode(tokenizer, *TURNS[6:], train_on="all", max_length=length)
        assert (got.input_ids, got.labels) == (whole.input_ids[:length], whole.labels[:length])
        assert not got.stop_positions
        text = tokenizer.decode(got.input_ids)
        assert got.cut == (not text.endswith(("third", "third<|assistant|>")))


def test_error_and_drop_say_the_lengths(tokenizer: GlmTokenizer) -> None:
    size = len(encode(tokenizer, *TURNS).input_ids)
    for truncation, kind in (("error", DataError), ("drop", ExampleTooLong)):
        assert len(encode(tokenizer, *TURNS, max_length=size, truncation=truncation).input_ids) == size
        with pytest.raises(
            DataError, match=f"has {size} tokens, and data.max_length is {size - 1}"
        ) as caught:
            encode(tokenizer, *TURNS, max_length=size - 1, truncation=truncation)
        assert type(caught.value) is kind
        assert type(caught.value.at("a.jsonl", 3)) is kind


def test_long_chats_are_rendered_a_few_times_only(tiny_tokenizer_folder: Path) -> None:
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    encode(tokenizer, *TURNS)  # the probes of the template are done
    renders = 0
    render = tokenizer.render_chat

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal renders
        renders += 1
        return render(*args, **kwargs)  # type: ignore[arg-type]

    tokenizer.render_chat = counting  # type: ignore[method-assign, assignment]
    encode(tokenizer, *TURNS)
    assert renders == 1
    got = encode(tokenizer, *(TURNS[4:6] * 100), max_length=100)
    assert renders == 3
    assert len(got.input_ids) <= 100
