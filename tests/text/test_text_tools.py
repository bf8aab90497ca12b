"""Tools reach each template the way it expects them; a template that cannot show them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from text_chat_cases import EDGE_OF_THREE_ROLES, TIME, WEATHER, Z1_WITH_TOOLS, marked, tokenizer_of
from text_templates import GLM_4_9B_CHAT, GLM_EDGE, GLM_Z1
from transformers import AutoTokenizer

from glm_train.errors import DataError
from glm_train.text.chat import Conversation, Message, encode_chat, encode_prompt
from glm_train.text.chat_probe import TemplateProbe
from glm_train.text.tokenizer import GlmTokenizer

SYSTEM, HI, HELLO = Message("system", "be"), Message("user", "hi"), Message("assistant", "Hello")
CALL, RESULT = Message("assistant", '{"city": "北京"}', "get_weather"), Message("observation", "31")
FUNCTION = WEATHER["function"]
PLAIN = "{% for m in messages %}<|{{ m.role }}|>{{ m.metadata or '' }}\n{{ m.content }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
NAMES_ONLY = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + PLAIN + PROMPT
FIRST_ONLY = "{% if tools %}{{ tools[0]|tojson }}{% endif %}" + PLAIN + PROMPT


def chat(*messages: Message, tools: tuple[dict[str, Any], ...] | None = (WEATHER,)) -> Conversation:
    return Conversation(messages, tools)


@pytest.mark.parametrize("messages", [(HI, CALL), (SYSTEM, HI, CALL), (Message("system", ""), HI, CALL)])
def test_tools_are_shown_by_either_style_of_template(tmp_path: Path, messages: tuple[Message, ...]) -> None:
    newer, older = tokenizer_of(tmp_path / "0414"), tokenizer_of(tmp_path / "9b", GLM_4_9B_CHAT)
    texts = [marked(t, encode_chat(t, chat(*messages))) for t in (newer, older)]
    for text in texts:
        head, _, turns = text.partition("<|user|>")
        assert "## Ġ get _weather" in head
        assert ("Ċ b e" in head) == (messages[0] is SYSTEM)
        assert turns.endswith(
            '<|assistant|> *get *_weather *Ċ *{" *cit *y *": *Ġ" *北京 *"} *<|observation|>'
        )
    assert [text.count("<|system|>") for text in texts] == [
        1 + (messages[0].role == "system"),
        1 + (messages[0] is SYSTEM),
    ]
    assert "ChatGLM" in older.decode(encode_chat(older, chat(*messages)).input_ids)


def test_tools_of_the_older_style_stand_before_the_system_message(tmp_path: Path) -> None:
    """As the older template writes a system message that carries both, which is what transformers renders."""
    older = tokenizer_of(tmp_path, GLM_4_9B_CHAT)
    text = older.decode(encode_prompt(older, chat(SYSTEM, HI)))
    assert text.index("get_weather") < text.index("<|system|>\nbe<|user|>")
    both = [{"role": "system", "content": "be", "tools": [WEATHER]}, {"role": "user", "content": "hi"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert text == theirs.apply_chat_template(both, add_generation_prompt=True, tokenize=False)


def test_bare_functions_are_wrapped_only_where_the_template_needs_it(tmp_path: Path) -> None:
    newer, older = tokenizer_of(tmp_path / "0414"), tokenizer_of(tmp_path / "9b", GLM_4_9B_CHAT)
    for tokenizer in (newer, older):
        bare, wrapped = (encode_prompt(tokenizer, chat(HI, tools=(t, TIME))) for t in (FUNCTION, WEATHER))
        assert bare == wrapped
        assert "查询天气" in tokenizer.decode(bare)
    dumping = tokenizer_of(tmp_path / "dump", "{{ tools|tojson if tools }}" + PLAIN + PROMPT)
    assert '[{"name": "get_weather"' in dumping.decode(encode_prompt(dumping, chat(HI, tools=(FUNCTION,))))


@pytest.mark.parametrize(
    ("source", "tools", "match"),
    [
        (GLM_EDGE, (WEATHER,), r"has tools, and the chat template \(.*chat_template.jinja\) ignores them"),
        (EDGE_OF_THREE_ROLES, (WEATHER,), "ignores them; use the template of a GLM-4 model that has it"),
        (GLM_Z1, (WEATHER,), "ignores them"),
        (NAMES_ONLY, (WEATHER,), "shows tools without their description and parameters"),
        (FIRST_ONLY, (WEATHER, TIME), r"tools\[1\]: .* left out the tool 'get_time'"),
        (None, (WEATHER, {"type": "python"}), r"tools\[1\]: .* has no name"),
        (None, (WEATHER, {"type": "function", "function": {"name": " "}}), r"tools\[1\]: .* has no name"),
    ],
)
def test_tools_that_would_not_be_shown_are_refused(
    tmp_path: Path, source: str | None, tools: tuple[dict[str, Any], ...], match: str
) -> None:
    tokenizer = tokenizer_of(tmp_path, source)
    for encode in (encode_chat, encode_prompt):
        with pytest.raises(DataError, match=match):
            encode(tokenizer, chat(HI, HELLO, tools=tools))
    assert encode_chat(tokenizer, chat(HI, HELLO, tools=()) if source is not GLM_Z1 else _reasoned()).labels


def _reasoned() -> Conversation:
    return chat(HI, Message("assistant", "<think>a</think>b"), tools=None)


@pytest.mark.parametrize("source", [GLM_EDGE, EDGE_OF_THREE_ROLES])
def test_edge_refuses_tool_calls_and_says_so(tmp_path: Path, source: str) -> None:
    tokenizer = tokenizer_of(tmp_path, source)
    with pytest.raises(
        DataError, match=r"messages\[1\]: .* writes no tool calls: it left out .* 'get_weather'"
    ):
        encode_chat(tokenizer, chat(HI, CALL, tools=None))


def test_a_name_that_stands_in_the_arguments_does_not_hide_that_it_was_left_out(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, GLM_EDGE)
    with pytest.raises(DataError, match="writes no tool calls"):
        encode_chat(tokenizer, chat(HI, Message("assistant", '{"f": 1}', "f"), tools=None))
    once = PLAIN.replace("m.metadata or ''", "m.metadata if m.metadata != 'f'") + PROMPT
    tokenizer = tokenizer_of(tmp_path / "once", once)
    with pytest.raises(DataError, match=r"messages\[1\]: .* left out the content"):
        encode_chat(tokenizer, chat(HI, Message("assistant", '{"f": 1}', "f"), tools=None))


def test_native_tool_stays_legal_where_the_template_takes_tools_in_a_message(tmp_path: Path) -> None:
    nine_b = tokenizer_of(tmp_path, GLM_4_9B_CHAT)
    ids = encode_chat(nine_b, chat(HI, HELLO, tools=(WEATHER, {"type": "python"}))).input_ids
    assert "get_weather" in nine_b.decode(ids)


def test_a_template_for_tools_is_asked_for_its_own_generation_prompt(tmp_path: Path) -> None:
    tokenizer_of(tmp_path, PLAIN + "{% if add_generation_prompt %}<|assistant|>\n{% endif %}")
    named = tmp_path / "additional_chat_templates"
    named.mkdir()
    (named / "tool_use.jinja").write_text("{{ tools|tojson if tools }}" + PLAIN + PROMPT)
    tokenizer = GlmTokenizer.from_pretrained(tmp_path)
    assert marked(tokenizer, encode_chat(tokenizer, chat(HI, HELLO, tools=None))) == (
        "<|user|> Ċ h i <|assistant|> Ċ *Hel *lo *<|user|>"
    )
    with_tools = marked(tokenizer, encode_chat(tokenizer, chat(HI, CALL, RESULT, HELLO)))
    assert with_tools.endswith(
        '<|assistant|> *get *_weather *Ċ *{" *cit *y *": *Ġ" *北京 *"} *<|observation|> Ċ 31'
        " <|assistant|> *Ċ *Hel *lo *<|user|>"
    )
    probe = TemplateProbe(tokenizer)
    assert (probe.generation_suffix(False), probe.generation_suffix(True)) == ("\n", "")


@pytest.mark.parametrize(
    ("source", "place", "roles"),
    [
        (None, "argument", "system user assistant tool call observation"),
        (GLM_4_9B_CHAT, "system message", "system user assistant tool call observation"),
        (GLM_EDGE, "nowhere", "system user assistant observation"),
        (EDGE_OF_THREE_ROLES, "nowhere", "system user assistant"),
        (Z1_WITH_TOOLS, "argument", "system user assistant tool call observation"),
    ],
)
def test_what_templates_can_express(tmp_path: Path, source: str | None, place: str, roles: str) -> None:
    probe = TemplateProbe(tokenizer_of(tmp_path, source))
    assert probe.tool_place == place
    every = ("system", "user", "assistant", "tool call", "observation")
    assert " ".join(what for what in every if probe.writes(what)) == roles
