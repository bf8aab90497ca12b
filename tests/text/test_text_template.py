"""Chat templates render as in transformers, inside a sandbox, and say where they fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from text_templates import GLM_4_9B_CHAT, GLM_EDGE, GLM_Z1
from transformers import AutoTokenizer

from glm_train.errors import CheckpointError, DataError
from glm_train.text import template as template_module
from glm_train.text.template import ChatTemplate, built_in_template
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 <b> & 'quotes'",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "北京天气？"},
    {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}', "extra": None},
    {"role": "observation", "content": "\n31 度"},
    {"role": "assistant", "content": "今天 31 度。"},
    {"role": "user", "content": "  Thanks!\n\n"},
]
DIALECT = """
{%- set ns = namespace(n=0) -%}
{% for message in messages %}
    {% if loop.index > 4 %}{% break %}{% endif %}
    {% generation %}{{ message.content|trim }}{% endgeneration %}
    {% set ns.n = ns.n + 1 %}
{% endfor %}
{{ ns.n }} {{ bos_token }} {{ eos_token }} {{ documents is none }} {{ "ab" * 3 }} {{ dict(a=1).a }}
{{ messages|tojson }} {{ messages[:1]|tojson(indent=1, ensure_ascii=True, sort_keys=True) }}
{% macro m(x) %}{{ x }}!{% endmacro %}{{ m(flag) }}
"""


def both(folder: Path, source: str | None = None) -> tuple[GlmTokenizer, Any]:
    make_tokenizer_folder(folder, template=source)
    return GlmTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("source", [None, GLM_4_9B_CHAT, GLM_EDGE, GLM_Z1, DIALECT])
@pytest.mark.parametrize("tools", [None, [WEATHER, WEATHER["function"]]])
@pytest.mark.parametrize("prompt", [False, True])
def test_chats_equal_transformers(
    tmp_path: Path, source: str | None, tools: list[Any] | None, prompt: bool
) -> None:
    ours, theirs = both(tmp_path, source)
    chats = [CHAT, [{"role": "system", "content": "", "tools": [WEATHER]}, *CHAT[1:3]], CHAT[:2]]
    for chat in [*chats, chats]:
        arguments = {"tools": tools, "add_generation_prompt": prompt, "flag": "on"}
        expected = theirs.apply_chat_template(chat, tokenize=False, **arguments)
        assert ours.apply_chat_template(chat, tokenize=False, **arguments) == expected
        expected = theirs.apply_chat_template(chat, return_dict=False, **arguments)
        assert ours.apply_chat_template(chat, **arguments) == expected


def test_batches_of_chats_equal_transformers(tmp_path: Path) -> None:
    ours, theirs = both(tmp_path)
    arguments = {
        "return_tensors": "pt",
        "return_dict": True,
        "padding": True,
        "truncation": True,
        "max_length": 30,
    }
    got = ours.apply_chat_template([CHAT, CHAT[:2]], **arguments)
    expected = theirs.apply_chat_template([CHAT, CHAT[:2]], **arguments)
    assert torch.equal(got.input_ids, expected.input_ids)
    assert torch.equal(got.attention_mask, expected.attention_mask)
    one = ours.apply_chat_template(CHAT, return_tensors="pt")
    assert one.tolist() == [ours.apply_chat_template(CHAT)]


def test_built_in_template_writes_the_format_of_glm_4_0414() -> None:
    text = ChatTemplate(built_in_template()).render(
        [CHAT[1], CHAT[0], *CHAT[2:4], {"role": "tool", "content": "not a GLM role"}],
        tools=[{"name": "f"}, {"type": "function", "function": {"name": "g", "x": "工具"}}],
        add_generation_prompt=True,
    )
    call = "在调用上述函数时，请使用 Json 格式表示调用的参数。"
    assert text == (
        "[gMASK]<sop><|system|>\n# 可用工具\n"
        f'\n## f\n\n{{\n    "name": "f"\n}}\n{call}'
        f'\n## g\n\n{{\n    "name": "g",\n    "x": "工具"\n}}\n{call}'
        "<|system|>\nBe brief.<|user|>\n北京天气？"
        '<|assistant|>get_weather\n{"city": "北京"}<|observation|>\n\n31 度<|assistant|>'
    )


def test_templates_in_the_configuration_are_found_by_name(tmp_path: Path) -> None:
    make_tokenizer_folder(tmp_path, template="")
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = {"default": "plain {{ messages[0].content }}", "tool_use": "tools {{ tools|length }}"}
    entries = [{"name": name, "template": text} for name, text in named.items()]
    path.write_text(json.dumps(config | {"chat_template": entries}))
    ours, theirs = GlmTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for tools in (None, [WEATHER]):
        text = ours.apply_chat_template(CHAT, tools=tools, tokenize=False)
        assert text == theirs.apply_chat_template(CHAT, tools=tools, tokenize=False)
        assert text == ("plain Be brief." if tools is None else "tools 1")
    path.write_text(json.dumps(config | {"chat_template": entries[1:]}))
    with pytest.raises(CheckpointError, match="none named 'default'"):
        GlmTokenizer.from_pretrained(tmp_path).apply_chat_template(CHAT)
    path.write_text(json.dumps(config | {"chat_template": "one {{ messages|length }}"}))
    assert GlmTokenizer.from_pretrained(tmp_path).apply_chat_template(CHAT, tokenize=False) == "one 6"


def test_syntax_errors_name_the_line() -> None:
    with pytest.raises(CheckpointError, match=r"^a/b\.jinja:2: not a valid Jinja template"):
        ChatTemplate("one\n{% if %}", where="a/b.jinja").render(CHAT)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("\n{{ raise_exception('roles must alternate') }}", r"jinja:2\).*: roles must alternate"),
        ("\n\n{{ messages[0].nope.deeper }}", r"jinja:3\)"),
        ("{{ messages|tojson(indent=nope) }}", "template"),
        ("{{ 1 / 0 }}", r"jinja:1\).*division by zero"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe|undefined"),
        ("{{ dict.update(messages[0], a=1) }}", "no attribute .update."),
        ("{{ 'x' * 100000000 }}", "a text of 100,000,000 characters is too large"),
        ("{{ '%*d' % (999999999, 1) }}", "padded to more than 999"),
        ("{{ '%0999999999d' % 1 }}", "padded to more than 999"),
        ("{{ '%.999999999f' % 1 }}", "padded to more than 999"),
        ("{{ '%999999999d'|format(1) }}", "padded to more than 999"),
        ("{{ '{:>999999999}'.format(1) }}", "padded to more than 999"),
        ("{{ '{:>{}}'.format(1, 999999999) }}", "padded to more than 999"),
        ("{{ 'x'.ljust(999999999) }}", "padded to more than 999"),
        ("{{ 'x'|center(999999999) }}", "padded to more than 999"),
        ("{{ 'x'|indent(width=999999999) }}", "padded to more than 999"),
        ("{{ messages|tojson(indent=999999999) }}", "padded to more than 999"),
        ("{{ 9 ** 999999999 }}", "exponent 999999999 is too large"),
        ("{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}", "more than 1,000,000 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_failing_and_hostile_templates_are_refused(source: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        ChatTemplate(source).render([dict(message) for message in CHAT])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ '%03d %s 2024' % (7, 'a') }}", "007 a 2024"),
        ("{{ '%s %d'|format('a', 123456) }}", "a 123456"),
        ("{{ '{:>4} {} 2024'.format(5, 123456) }}", "   5 123456 2024"),
        ("{{ 7777 % 5000 }}", "2777"),
        ("{{ 'x'.ljust(3) ~ 'ab'.find('b', 0, 5000) }}", "x  1"),
    ],
)
def test_ordinary_formatting_is_left_alone(source: str, text: str) -> None:
    assert ChatTemplate(source).render(CHAT) == text


def test_endless_templates_run_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "MAX_SECONDS", 0.05)
    silent = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(
        DataError, match=r"ran longer than the 0\.05 s it is given; take the model.s own chat template"
    ):
        ChatTemplate(silent).render(CHAT)


def test_source_size_is_limited() -> None:
    with pytest.raises(CheckpointError, match="70,000 bytes"):
        ChatTemplate("x" * 70_000).render(CHAT)


def test_only_json_data_reaches_a_template(tiny_tokenizer_folder: Path) -> None:
    ours = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    with pytest.raises(DataError, match=r"messages\[0\]\.content: expected JSON data .* found \w*Path"):
        ours.apply_chat_template([{"role": "user", "content": Path("x")}])
    with pytest.raises(DataError, match=r"messages\[0\]: expected a role and content, found str"):
        ours.render_chat(["hi"])  # type: ignore[list-item]
    with pytest.raises(DataError, match="empty conversation"):
        ours.apply_chat_template([])


def test_folder_that_is_no_chat_model_says_so(tmp_path: Path) -> None:
    make_tokenizer_folder(tmp_path, template="")
    path = tmp_path / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    kept = [token for token in vocabulary["added_tokens"] if token["content"] == "<|endoftext|>"]
    path.write_text(json.dumps(vocabulary | {"added_tokens": kept}))
    config = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = GlmTokenizer.from_pretrained(tmp_path)
    assert ours.chat_template is None
    with pytest.raises(CheckpointError, match="no chat template and not the special tokens"):
        ours.apply_chat_template(CHAT)


def test_a_long_chat_may_write_what_it_holds(tiny_tokenizer_folder: Path) -> None:
    ours = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    text = ours.apply_chat_template([{"role": "user", "content": "x" * 1_100_000}], tokenize=False)
    assert len(text) > 1_100_000
