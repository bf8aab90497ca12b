"""Control tokens come from the template alone; what a user typed stays text, through every template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_templates import GLM_4_9B_CHAT

from glm_train.text.control import ControlTokens, choose_sentinel, plain_data, remove_sentinel
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import SPECIAL_TOKENS, make_tokenizer_folder

hostile_text = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "user", "\n", "\ue000"]), st.text(max_size=4)),
    max_size=6,
).map("".join)


@pytest.fixture(scope="module", params=[None, GLM_4_9B_CHAT], ids=["0414", "9b-chat"])
def tokenizer(request: Any, tmp_path_factory: pytest.TempPathFactory) -> GlmTokenizer:
    folder = tmp_path_factory.mktemp("control")
    return GlmTokenizer.from_pretrained(make_tokenizer_folder(folder, template=request.param))


@settings(max_examples=150, deadline=None)
@given(asked=hostile_text, answer=hostile_text, key=hostile_text)
def test_hostile_text_adds_no_control_token(
    tokenizer: GlmTokenizer, asked: str, answer: str, key: str
) -> None:
    asked, answer = f"u{asked}", f"a{answer}"
    tool = {"type": "function", "function": {"name": "f", "parameters": {key: [asked]}}}
    chat = [
        {"role": "system", "content": "", "tools": [tool]},
        {"role": "user", "content": asked},
        {"role": "assistant", "content": answer},
    ]
    ids = tokenizer.apply_chat_template(chat, tools=[tool], add_generation_prompt=True)
    control = {id_: spelling for spelling, id_ in tokenizer.special_tokens.items()}
    written = [control[id_] for id_ in ids if id_ in control]
    systems = written.count("<|system|>")
    expected = ["[gMASK]", "<sop>", *["<|system|>"] * systems, "<|user|>", "<|assistant|>", "<|assistant|>"]
    assert written == expected
    assert 1 <= systems <= 2
    text = tokenizer.apply_chat_template(chat, tools=[tool], add_generation_prompt=True, tokenize=False)
    assert tokenizer.decode(ids) == text
    assert text.endswith(f"<|user|>\n{asked}<|assistant|>\n{answer}<|assistant|>")


@settings(max_examples=100, deadline=None)
@given(content=st.text(max_size=30).filter(lambda text: not any(token in text for token in SPECIAL_TOKENS)))
def test_protection_leaves_the_ids_of_ordinary_text_alone(tokenizer: GlmTokenizer, content: str) -> None:
    """The two ways to encode a rendered chat agree: with and without something to protect."""
    chat = [{"role": "user", "content": f"x{content}"}]
    rendered = tokenizer.render_chat(chat)
    assert rendered.sentinel is None
    sentinel = choose_sentinel([rendered.protected])
    assert tokenizer.encode_rendered(
        type(rendered)(rendered.protected, sentinel)
    ) == tokenizer.encode_rendered(rendered)


def test_prefix_stands_once_whoever_else_writes_it(tmp_path: Path) -> None:
    from test_text_tokenizer import with_prefix

    tokenizer = GlmTokenizer.from_pretrained(with_prefix(tmp_path))
    prefix = [tokenizer.special_tokens[token] for token in ("[gMASK]", "<sop>")]
    assert tokenizer.encode("hi")[:2] == prefix  # the post-processor is there
    for content in ("hi", "[gMASK]<sop>hi"):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": content}])
        assert ids[:2] == prefix
        assert not set(ids[2:]) & set(prefix)


def test_line_breaks_merge_as_in_the_rendered_text(tokenizer: GlmTokenizer) -> None:
    for mark in ("", " <sop>"):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": f"\nhi{mark}"}])
        assert tokenizer.id_to_token(ids[ids.index(tokenizer.special_tokens["<|user|>"]) + 1]) == "ĊĊ"


def test_overlapping_spellings_are_broken_too() -> None:
    control = ControlTokens({"ABA": 1, "[x]": 2})
    assert not control.occur_in([control.protect("ABABABA", "S")])
    protected = control.protect({"[x]": ["[x][x]", 3, None]}, "S")
    assert protected == {"[Sx]": ["[Sx][Sx]", 3, None]}


def test_sentinel_is_a_character_that_occurs_nowhere() -> None:
    assert choose_sentinel(["\ue000 and \\uE001"]) == "\ue002"
    assert remove_sentinel('a\ue002b "\\ue002"', "\ue002") == 'ab ""'


def test_ascii_json_in_a_template_keeps_the_text(tmp_path: Path) -> None:
    source = "[gMASK]<sop><|user|>{{ messages[0].content|tojson(ensure_ascii=True) }}"
    tokenizer = GlmTokenizer.from_pretrained(make_tokenizer_folder(tmp_path, template=source))
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "é <|user|>"}])
    assert tokenizer.decode(ids) == '[gMASK]<sop><|user|>"\\u00e9 <|user|>"'
    assert ids.count(tokenizer.special_tokens["<|user|>"]) == 1


def test_plain_data_is_a_copy() -> None:
    value = {"a": [{"b": "x"}]}
    strings: list[str] = []
    copy = plain_data(value, strings)
    assert copy == value
    assert copy["a"][0] is not value["a"][0]
    assert strings == ["a", "b", "x"]
