"""Which templates run without a meter, and that they write the same there."""

from __future__ import annotations

from typing import Any

import pytest
import text_chat_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from glm_train.errors import DataError
from glm_train.text import template_plain
from glm_train.text.template import ChatTemplate, built_in_template

# As GLM-4-0414's own template goes about it.
WITH_NAMES = """[gMASK]<sop>{%- if tools -%}<|system|>{% for tool in tools %}{{ tool|tojson(indent=4) }}{% endfor %}
{%- endif -%}
{%- for m in messages %}{%- if m.role == 'system' %}<|system|>
{{ m.content }}{%- endif %}{%- endfor %}
{%- for message in messages if message.role != 'system' %}
    {%- set role = message['role'] %}{%- set visible = message.content.split('</think>')[-1].strip() %}
    {%- set meta = message.get("metadata", "") %}
    {%- if role in ['user', 'observation'] %}<|{{ role }}|>
{{ visible }}{%- elif role == 'assistant' and not meta %}<|assistant|>
{% generation %}{{ visible }}{% endgeneration %}{%- else %}<|{{ role }}|>{{ meta }}
{{ visible }}{%- endif %}
{%- endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"""
PLAIN = {
    **{name: source or built_in_template() for name, source in text_chat_cases.TEMPLATES.items()},
    "z1 with tools": text_chat_cases.Z1_WITH_TOOLS,
    "line break": text_chat_cases.NEWLINE_0414,
    "names": WITH_NAMES,
    "undefined": "{% for m in messages %}{{ m.metadata }}{{ m.content if m.metadata is defined }}{% endfor %}",
    "may fail": "{% for m in messages %}{{ m.role + m.metadata }}{% endfor %}",
    "texts": "{% for m in messages %}{{ m.role ~ (not m.metadata) ~ 1 ~ none }}{% endfor %}{{ m.content }}",
}
FLAT = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "observation", "x"]),
        "content": st.text("a <|>\n/think", max_size=9),
    },
    optional={"metadata": st.text("fn ", max_size=3)},
)


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=60, deadline=None)
@given(messages=st.lists(FLAT, min_size=1, max_size=5), prompt=st.booleans())
def test_the_text_is_the_sandboxs(name: str, messages: list[dict[str, str]], prompt: bool) -> None:
    template = ChatTemplate(PLAIN[name])
    assert template._plain is not None
    options: dict[str, Any] = {"add_generation_prompt": prompt, "variables": {"eos_token": "E"}}

    def rendered(flat: bool) -> str:
        try:
            return template.render(messages, **options, flat=flat)
        except DataError as error:
            return f"refused: {error}"

    assert rendered(True) == rendered(False)


EACH = "{% for m in messages %}BODY{% endfor %}"


@pytest.mark.parametrize(
    "source",
    [
        EACH.replace("BODY", EACH.replace("m ", "n ")),
        EACH.replace("BODY", EACH),
        EACH.replace("BODY", "{% for c in m.content %}{{ c }}{% endfor %}"),
        EACH.replace("BODY", "{% set x = x ~ x %}"),
        EACH.replace("BODY", "{% set x = (m.role == 'a' and m.content + m.content) %}"),
        EACH.replace("BODY", "{% set messages = m.content %}"),
        EACH.replace("BODY", "{% set m = m.content %}{{ m }}"),
        EACH.replace("BODY", "{{ loop.index }}"),
        EACH.replace("BODY", "{{ m.content * 9 }}"),
        EACH.replace("BODY", "{{ m.content|upper }}"),
        EACH.replace("BODY", "{{ m.content.replace('a', 'aaaa') }}"),
        EACH.replace("BODY", "{{ m.content.join(m.content) }}"),
        EACH.replace("BODY", "{{ m.items }}"),
        EACH.replace("BODY", "{{ m['__class__'] }}"),
        EACH.replace("BODY", "{{ m.content.__class__ }}"),
        EACH.replace("BODY", "{{ m.get(m.role) }}"),
        EACH.replace("BODY", "{{ m.content.split('a')[-m.role] }}"),
        EACH.replace("BODY", "{{ m.content.split('a') }}"),
        EACH.replace("BODY", "{{ m.content.strip(*messages) }}"),
        EACH.replace("BODY", "{{ m }}"),
        EACH.replace("BODY", "{{ m.content }}" * 400),
        "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
        "{% for range in messages %}{{ range.role }}{% endfor %}",
        "{% for a, b in messages %}{{ a }}{% endfor %}",
        "{% for m in 'text' %}{{ m }}{% endfor %}",
        "{% macro f(m) %}{{ m }}{% endmacro %}{{ f(messages) }}",
        "{% set ns = namespace(x='') %}{{ ns.x }}",
        "{{ raise_exception('no') }}",
        "{{ messages }}",
        "{{ messages[0].content }}",
        "{{ tools|tojson }}",
        "{{ eos_token }}",
        "{% if tools %}a{% elif messages %}b{% endif %}",
        "{% include 'x' %}",
        "{% for m in messages",
    ],
)
def test_what_is_not_known_to_be_harmless_is_metered(source: str) -> None:
    assert ChatTemplate(source)._plain is None


def test_large_conversations_and_tools_are_metered(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(EACH.replace("BODY", "{{ m.content }}"))
    plain = template._plain
    assert plain is not None
    names = {"messages": [{"role": "user", "content": "a" * 50}], "tools": None}
    assert plain.render(names, 50) == "a" * 50
    assert plain.render(names, template_plain.MAX_SIZE + 1) is None
    assert plain.render({**names, "tools": []}, 50) is None
    monkeypatch.setattr(template_plain, "MAX_SIZE", 10)
    assert plain.render(names, 9) is None, "what was written is too long"
