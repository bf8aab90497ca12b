"""Templates that run without a meter are told by their syntax. These ask for more than such a one may have: each is
left to the metered sandbox, either as a whole or for the conversation that would take long, and in either case soon."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import pytest

from glm_train.errors import CheckpointError, GlmTrainError
from glm_train.text.template import ChatTemplate
from glm_train.text.template_plain import MAX_SIZE

EACH = "{% for m in messages %}BODY{% endfor %}"


def each(body: str, before: str = "") -> str:
    return before + EACH.replace("BODY", body)


def sure(expression: str) -> str:
    """Computes, and writes nothing."""
    return "{% if " + expression + " == 'q' %}{% endif %}"


NINES = "9" * 4300  # the longest that Python writes out
LONG = "{% set x = '" + "a" * 50_000 + "' %}"
SHORT = "{% set x = '" + "a" * 400 + "' %}"
MARK = "a" * 49 + "b" + "a" * 49
# Sources that are no plain template at all.
NOT_PLAIN = {
    "a range": "{% for i in range(10**9) %}{% endfor %}",
    "loops in loops": each(EACH.replace("m ", "n ")),
    "loops in a condition in a loop": each("{% if m.role %}" + EACH.replace("m ", "n ") + "{% endif %}"),
    "a loop in the else of a loop": "{% for m in messages %}{% else %}" + EACH + "{% endfor %}",
    "a loop over text": each("{% for c in m.content %}{{ c }}{% endfor %}"),
    "a loop over pieces": each("{% for c in m.content.split('a') %}{{ c }}{% endfor %}"),
    "recursive": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "a macro": "{% macro f(m) %}{{ f(m) }}{% endmacro %}{{ f('a') }}",
    "a call block": "{% call f() %}a{% endcall %}",
    "a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "a captured block": each("{% set x %}{{ m.content }}{{ m.content }}{% endset %}"),
    "a filtered block": each("{% filter upper %}{{ m.content }}{% endfilter %}"),
    "with": each("{% with x = m.content %}{{ x }}{% endwith %}"),
    "doubled by ~": each("{% set x = x ~ x %}", "{% set x = 'a' %}"),
    "doubled by +": each("{% set x = x + x %}", "{% set x = 'a' %}"),
    "doubled in a list": each("{% set x = [x, x] %}", "{% set x = 'a' %}"),
    "doubled in a namespace": each("{% set n.x = n.x ~ n.x %}", "{% set n = namespace(x='a') %}"),
    "an attribute that is set": "{% set messages.x = 'a' %}",
    "a text many times": "{{ 'x' * 10**9 }}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a percent format": "{{ '%999999999d' % 1 }}",
    "a format": "{{ '{:>999999999}'.format(1) }}",
    "format_map": each("{{ '{role.__class__}'.format_map(m) }}"),
    "a wide text": each("{{ m.content.center(10**9) }}"),
    "a replacement": each("{{ m.content.replace('', m.content) }}"),
    "a join": each("{{ m.content.join(m.content) }}"),
    "all pieces": each("{{ m.content.split('a') }}"),
    "a slice of pieces": each("{{ m.content.split('a')[::2] }}"),
    "split many times": each("{{ m.content.split('a', 1)[0].split() }}"),
    "a filter": each("{{ m.content|wordwrap(1) }}"),
    "an attribute by filter": "{{ ''|attr('__class__') }}",
    "a class": each("{{ m.__class__ }}"),
    "a class by item": each("{{ m['__class__'] }}"),
    "a class of text": "{{ ''.__class__ }}",
    "a class by get": each("{{ m.get.__self__ }}"),
    "the globals of a method": each("{{ m.content.strip.__func__.__globals__ }}"),
    "a key that is computed": each("{{ m[m.role] }}"),
    "changing a message": each("{{ m.update(role='system') }}"),
    "changing the list": "{{ messages.append(messages) }}",
    "the template itself": "{{ self._TemplateReference__context.parent }}",
    "the loop": each("{{ loop.__init__.__globals__ }}"),
    "a test that computes": each("{{ m.content is divisibleby 3 }}"),
    "a test that is looked up": each("{{ 'x' is in m.content }}"),
    "a long mark to split at": each(f"{{{{ m.content.split('{'a' * 200}b')[0] }}}}"),
    "a long mark to look for": each(f"{{{{ '{'a' * 200}b' in m.content }}}}"),
    "a mark from the conversation": each("{{ m.metadata in m.content }}"),
    "numbers too long to write": "{{ " + NINES + " + " + NINES + " }}",
    "numbers too long to write, joined": "{{ (" + NINES + " + " + NINES + ") ~ '' }}",
    "a number of digits that nobody limits": "{{ 0x" + "f" * 60_000 + " }}",
    "generators": each("{{ m.content|map('upper')|list }}"),
    "an include": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "autoescape": "{% autoescape true %}a{% endautoescape %}",
    "many parts": each("{{ m.content }}" * 300),
    "brackets": "{{ " + "(" * 900 + "1" + ")" * 900 + " }}",
    "too long": "x" * 70_000,
}
# Plain templates, and a conversation each that is for the sandbox.
TINY = [{"role": "u", "content": ""}] * 4500
FEW = TINY[:500]
ONE = [{"role": "u", "content": "a" * 190_000}]
TOO_MUCH: dict[str, tuple[str, list[dict[str, str]]]] = {
    "long literals written": (each("x" * 60_000), TINY),
    "long literals of wide letters written": (each("x" * 60_000 + "\U0001f600"), TINY),
    "the content written many times": (each("{{ m.content }}" * 150), ONE),
    "long literals joined": (each(sure("~".join(["x"] * 80)), LONG), FEW),
    "long literals split": (each(sure("x.split('a')[0]") * 30, LONG), FEW),
    "long literals compared": (each("{% if x == y %}{% endif %}", LONG + LONG.replace(" x ", " y ")), TINY),
    "the content split many times": (each(sure("m.content.split('a')[0]") * 35), ONE),
    "the content added up": (each(sure("+".join(["m.content"] * 90))), ONE),
    "the content joined in brackets": (each(sure("(" * 40 + "m.content" + " ~ m.content)" * 40)), ONE),
    "pieces of pieces": (
        each(sure("(" + "~".join(["x"] * 20) + ")" + f".split('{MARK}')[0]" * 25), SHORT),
        TINY[:1000],
    ),
    "marks": (each(f"{{% if '{MARK}' in m.content %}}{{% endif %}}" * 60), ONE),
    "messages of nothing": (each("{{ m.content ~ m.role ~ 'a' }}"), [{"role": ""}, *[{}] * 300_000]),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_the_source_is_metered(name: str) -> None:
    template = ChatTemplate(NOT_PLAIN[name], where="t.jinja")
    try:
        _ = template._compiled
    except CheckpointError:  # refused before it is asked whether it is plain
        return
    assert template._plain is None


@pytest.mark.parametrize("name", TOO_MUCH)
def test_the_conversation_is_metered(name: str) -> None:
    source, chat = TOO_MUCH[name]
    plain = ChatTemplate(source)._plain
    assert plain is not None, "the syntax alone does not tell"
    assert render(plain, [{"role": "u", "content": "b"}]) is not None, "a small conversation is rendered"
    tracemalloc.start()
    began = time.thread_time()
    try:
        text = render(plain, chat)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert text is None
    assert time.thread_time() - began < 1
    assert peak < 32 * 1024**2


def render(plain: Any, chat: list[dict[str, str]]) -> str | None:
    size = sum(len(text) + 8 for message in chat for pair in message.items() for text in pair)
    assert size <= MAX_SIZE, "the size alone does not tell"
    names = {"messages": chat, "tools": None, "documents": None, "add_generation_prompt": False}
    return plain.render(names, size)


def test_deep_expressions_compile_soon() -> None:
    """A compiler that folds constants looks at every level again from every level above it."""
    template = ChatTemplate(each("{{ " + "not " * 140 + "m.role }}"))
    _ = template._compiled
    began = time.thread_time()
    assert template._plain is not None
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize(
    "source", [NOT_PLAIN["numbers too long to write"], TOO_MUCH["long literals written"][0]]
)
def test_whoever_renders_refuses(source: str) -> None:
    """What the plain way leaves alone ends as it does without that way: in a refusal that names the template."""
    for flat in (True, False):
        with pytest.raises(GlmTrainError, match=r"^the chat template \(t\.jinja\S*\) cannot render"):
            ChatTemplate(source, where="t.jinja").render(TINY, size=10, flat=flat)
