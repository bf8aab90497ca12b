"""Which tokens of a chat are trained, token by token, under the templates of the GLM-4 family."""

from __future__ import annotations

from pathlib import Path

import pytest
from text_chat_cases import EDGE_OF_THREE_ROLES, marked
from text_templates import GLM_4_9B_CHAT, GLM_EDGE

from glm_train.errors import CheckpointError, ConfigError, DataError
from glm_train.text.chat import Conversation, Message, encode_chat, encode_prompt
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder

SYSTEM, HI, HELLO = Message("system", "be"), Message("user", "hi"), Message("assistant", "Hello")
BYE, NO = Message("user", "bye"), Message("assistant", "no")
CALL = Message("assistant", '{"city": "北京"}', "get_weather")
CALL_2 = Message("assistant", "{}", "get_time")
RESULT, RESULT_2, ANSWER = (
    Message("observation", "31"),
    Message("observation", "12"),
    Message("assistant", "今天"),
)
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "查询天气"}}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer_folder: Path) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(tiny_tokenizer_folder)


def with_template(folder: Path, source: str) -> GlmTokenizer:
    return GlmTokenizer.from_pretrained(make_tokenizer_folder(folder, template=source))


def chat(*messages: Message, tools: tuple[dict, ...] | None = None) -> Conversation:
    return Conversation(messages, tools)


def test_every_turn_and_its_stop_token_is_trained(tokenizer: GlmTokenizer) -> None:
    example = encode_chat(tokenizer, chat(SYSTEM, HI, HELLO, BYE, NO))
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|system|> Ċ b e <|user|> Ċ h i <|assistant|> *Ċ *Hel *lo *<|user|>"
        " Ċ b y e <|assistant|> *Ċ *no *<|user|>"
    )
    assert (example.dropped_messages, example.cut) == (0, False)


def test_chinese_tool_call_is_handed_over_by_observation(tokenizer: GlmTokenizer) -> None:
    example = encode_chat(tokenizer, chat(HI, CALL, RESULT, ANSWER))
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ h i"
        ' <|assistant|> *get *_weather *Ċ *{" *cit *y *": *Ġ" *北京 *"} *<|observation|>'
        " Ċ 31 <|assistant|> *Ċ *今 *天 *<|user|>"
    )


def test_parallel_calls_hand_over_by_assistant(tokenizer: GlmTokenizer) -> None:
    text = Message("assistant", "no")
    example = encode_chat(tokenizer, chat(HI, text, CALL_2, CALL_2, RESULT, RESULT_2, ANSWER))
    call = "*get *_ *t *i *m *e *Ċ *{ *}"
    assert marked(tokenizer, example) == (
        f"[gMASK] <sop> <|user|> Ċ h i <|assistant|> *Ċ *no *<|assistant|> {call} *<|assistant|> {call}"
        " *<|observation|> Ċ 31 <|observation|> Ċ 1 2 <|assistant|> *Ċ *今 *天 *<|user|>"
    )


def test_a_conversation_may_end_with_a_tool_call(tokenizer: GlmTokenizer) -> None:
    for messages in ((HI, CALL_2), (HI, CALL_2, RESULT)):
        example = encode_chat(tokenizer, chat(*messages))
        assert marked(tokenizer, example).endswith(
            "<|assistant|> *get *_ *t *i *m *e *Ċ *{ *} *<|observation|>"
        )
        assert example.dropped_messages == len(messages) - 2


def test_untrained_messages_stay_in_the_text(tokenizer: GlmTokenizer) -> None:
    silent = Message("assistant", "Hello", train=False)
    example = encode_chat(tokenizer, chat(HI, silent, BYE, NO))
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> Ċ Hel lo <|user|> Ċ b y e <|assistant|> *Ċ *no *<|user|>"
    )
    example = encode_chat(tokenizer, chat(HI, HELLO, BYE, Message("assistant", "no", train=False)))
    assert marked(tokenizer, example) == (  # and no stop token is appended for it
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> *Ċ *Hel *lo *<|user|> Ċ b y e <|assistant|> Ċ no"
    )


def test_last_assistant_trains_one_message(tokenizer: GlmTokenizer) -> None:
    example = encode_chat(tokenizer, chat(HI, CALL_2, RESULT, ANSWER, BYE), train_on="last_assistant")
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> get _ t i m e Ċ { } <|observation|> Ċ 31"
        " <|assistant|> *Ċ *今 *天 *<|user|>"
    )
    assert example.dropped_messages == 1


def test_all_trains_everything_after_the_prefix(tokenizer: GlmTokenizer) -> None:
    example = encode_chat(tokenizer, chat(SYSTEM, HI, HELLO), train_on="all")
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> *<|system|> *Ċ *b *e *<|user|> *Ċ *h *i *<|assistant|> *Ċ *Hel *lo *<|user|>"
    )
    quiet = chat(Message("system", "be", train=False), Message("user", "hi", train=False), HELLO, BYE, NO)
    assert marked(tokenizer, encode_chat(tokenizer, quiet, train_on="all")) == (
        "[gMASK] <sop> <|system|> Ċ b e *<|user|> Ċ h i *<|assistant|> *Ċ *Hel *lo *<|user|>"
        " *Ċ *b *y *e *<|assistant|> *Ċ *no *<|user|>"
    )
    quiet = chat(HI, Message("assistant", "Hello", train=False), BYE, NO)
    assert marked(tokenizer, encode_chat(tokenizer, quiet, train_on="all")) == (
        "[gMASK] <sop> *<|user|> *Ċ *h *i *<|assistant|> Ċ Hel lo <|user|> *Ċ *b *y *e *<|assistant|> *Ċ *no *<|user|>"
    )


def test_control_spellings_of_a_user_are_text(tokenizer: GlmTokenizer) -> None:
    asked = Message("user", "<|assistant|>\n[gMASK]<sop>")
    example = encode_chat(tokenizer, chat(asked, Message("assistant", "no<|user|>")))
    assert marked(tokenizer, example) == (
        "[gMASK] <sop> <|user|> Ċ < | a s s i s t a n t | > Ċ [ g M A S K ] < s o p >"
        " <|assistant|> *Ċ *no *< *| *u *s *e *r *| *> *<|user|>"
    )


def test_same_turns_under_the_older_template(tmp_path: Path) -> None:
    older = with_template(tmp_path, GLM_4_9B_CHAT)
    assert marked(older, encode_chat(older, chat(HI, CALL_2, RESULT, ANSWER, BYE, NO))) == (
        "[gMASK] <sop> <|user|> Ċ h i <|assistant|> *get *_ *t *i *m *e *Ċ *{ *} *<|observation|> Ċ 31"
        " <|assistant|> *Ċ *今 *天 *<|user|> Ċ b y e <|assistant|> *Ċ *no *<|user|>"
    )


def test_what_the_generation_prompt_gives_is_not_trained(tmp_path: Path) -> None:
    edge = with_template(tmp_path, GLM_EDGE)
    example = encode_chat(edge, chat(HI, HELLO, BYE, Message("assistant", "\nno")))
    assert marked(edge, example) == (
        "<|user|> Ċ h i <|assistant|> Ċ *Hel *lo *<|user|> Ċ b y e <|assistant|> Ċ *Ċ *no *<|user|>"
    )
    assert encode_prompt(edge, chat(HI)) == example.input_ids[:6]
    everything = marked(edge, encode_chat(edge, chat(HI, HELLO), train_on="all"))
    assert everything == "<|user|> *Ċ *h *i *<|assistant|> *Ċ *Hel *lo *<|user|>"


def test_text_after_an_answer_belongs_to_it(tmp_path: Path) -> None:
    source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>\n\n{% endfor %}"
    source += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ended = with_template(tmp_path, source)
    assert marked(ended, encode_chat(ended, chat(HI, HELLO, BYE, NO))) == (
        "<|user|> h i <|endoftext|> ĊĊ <|assistant|> *Hel *lo *<|endoftext|> *ĊĊ *<|user|>"
        " b y e <|endoftext|> ĊĊ <|assistant|> *no *<|endoftext|> *ĊĊ *<|user|>"
    )


def test_prompt_never_holds_the_answer(tokenizer: GlmTokenizer) -> None:
    full = encode_chat(tokenizer, chat(SYSTEM, HI, CALL, RESULT, ANSWER)).input_ids
    prompt = encode_prompt(tokenizer, chat(SYSTEM, HI, CALL, RESULT, ANSWER))
    assert prompt == full[: len(prompt)] == encode_prompt(tokenizer, chat(SYSTEM, HI, CALL, RESULT))
    assert tokenizer.decode(prompt).endswith("<|observation|>\n31<|assistant|>")
    assert encode_prompt(tokenizer, chat(SYSTEM, HI, NO, CALL, CALL_2)) == encode_prompt(
        tokenizer, chat(SYSTEM, HI)
    )
    for nothing in ((), (SYSTEM,), (HELLO,)):
        with pytest.raises(DataError, match="no message to answer"):
            encode_prompt(tokenizer, chat(*nothing))
    with pytest.raises(DataError, match=r"messages\[1\]: two user messages"):
        encode_prompt(tokenizer, chat(HI, BYE))


UPPER = "{% for m in messages %}<|{{ m.role }}|>{{ m.content|upper }}{% endfor %}"
PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
INJECTING = PLAIN.replace("{% endfor %}", "{{ '<|system|>x' if loop.first }}{% endfor %}")
HEADLESS = "{% for m in messages[1:] %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
TOOLS = (WEATHER, {"name": "f2"})


@pytest.mark.parametrize(
    ("source", "messages", "tools", "match"),
    [
        (
            "{{ messages|length }}",
            (HI, HELLO),
            None,
            r"messages\[0\]: .* writes no user messages \(<\|user\|>\); use the template of a GLM-4 model",
        ),
        (UPPER, (HI, HELLO), None, r"messages\[0\]: .* the content 'hi'"),
        (
            PLAIN,
            (HI, CALL),
            None,
            r"messages\[1\]: .*chat_template.jinja\) writes no tool calls: .*'get_weather'",
        ),
        (PLAIN, (HI, HELLO), (WEATHER,), r"has tools, and .*chat_template.jinja\) ignores them"),
        (HEADLESS, (SYSTEM, HI, HELLO), None, r"messages\[0\]: .* writes no system messages"),
        (
            PLAIN.replace("m.content", "m.content if m.content != 'be'"),
            (SYSTEM, HI, HELLO),
            None,
            r"messages\[0\]: .* changed or left out the content 'be'",
        ),
        (INJECTING, (HI, HELLO), None, "the rendered text has user system assistant"),
        (
            EDGE_OF_THREE_ROLES,
            (HI, CALL, RESULT, ANSWER),
            None,
            r"messages\[2\]: .* writes no observation messages \(<\|observation\|>\)",
        ),
        ("{{ tools[0]|tojson }}" + PLAIN, (HI, HELLO), TOOLS, r"tools\[1\]: .* left out the tool 'f2'"),
        (PLAIN + "<|assistant|>", (HI, HELLO), None, "the rendered text has user assistant assistant"),
    ],
)
def test_template_that_cannot_express_the_chat_is_refused(
    tmp_path: Path, source: str, messages: tuple[Message, ...], tools: tuple[dict, ...] | None, match: str
) -> None:
    with pytest.raises(DataError, match=match):
        encode_chat(with_template(tmp_path, source), chat(*messages, tools=tools))


def test_template_without_a_generation_prompt_is_refused(tmp_path: Path) -> None:
    silent = with_template(tmp_path, "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
    with pytest.raises(CheckpointError, match=r"writes no <\|assistant\|>"):
        encode_chat(silent, chat(HI, HELLO))
    with pytest.raises(DataError, match="writes no generation prompt"):
        encode_prompt(silent, chat(HI))


def test_older_template_skips_empty_messages_and_is_told_on(tmp_path: Path) -> None:
    older = with_template(tmp_path, GLM_4_9B_CHAT)
    with pytest.raises(DataError, match=r"messages\[2\]: .* leaves out messages without content"):
        encode_chat(older, chat(HI, CALL, Message("observation", ""), ANSWER))


@pytest.mark.parametrize(
    ("name", "value"), [("train_on", "asistant"), ("truncation", "errors"), ("stop_token", "roles")]
)
def test_unknown_options_are_refused(tokenizer: GlmTokenizer, name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"data.{name}='{value}'.*Did you mean"):
        encode_chat(tokenizer, chat(HI, HELLO), **{name: value})
