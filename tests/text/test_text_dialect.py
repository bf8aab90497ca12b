"""What the sandbox takes away or watches over is nothing that chat templates use: they render as in
transformers, expression by expression."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from glm_train.errors import DataError
from glm_train.text.template import ChatTemplate

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 <b> & 'q'",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"enum": [1, 2]}}},
    },
}
CHAT = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "北京 <x> hot?\n\n  really", "n": 3, "f": 2.5, "ok": True},
    {
        "role": "assistant",
        "content": "<think>hm</think>\n31",
        "calls": [{"name": "b", "args": {"y": 1, "x": [2]}}],
    },
    {"role": "user", "content": "", "parts": [{"type": "text", "text": "a"}, {"type": "image"}]},
]
# One a line. jinja2 reads the escapes.
EXPRESSIONS = r"""
m.content|trim
m.content|trim('\n .')
m.content.strip()
m.content.split('</think>')[-1].lstrip('\n')
m.content.split()
m.content.rsplit(' ', 1)
m.content.splitlines()|length
m.content|upper|lower|title
m.content|capitalize
m.content|replace('o', '00')
m.content.replace('o', '0', 1)
m.content|length
m.content|replace(old='o', new='0', count=1)
m.content|indent(width=3, first=true)
m.content|truncate(length=4, killwords=true, end='', leeway=0)
[1, 2, 3]|batch(linecount=2, fill_with='x')|list
[1, 2, 3]|slice(slices=2, fill_with='x')|list
2.567|round(precision=2, method='floor')
[3, 1]|sort(reverse=true)
messages|groupby(attribute='role', default='x')|length
['a', 'B']|unique(case_sensitive=true)|list
messages|sum(attribute='f', start=1) if m.f else 0
m.content.split(sep=' ', maxsplit=1)
'a-b'.replace('-', '+').center(9, '*')
m.content|indent(2, first=true)
m.content|indent('> ', blank=true)
m.content|truncate(9)
m.content|truncate(5, true, '~', 0)
m.content|center(30)
m.content[::-1]
m.content[1:3] ~ m.content[-1:]
m.content.startswith(' Be') and m.content.endswith('\n')
m.content.find('hot') < m.content.rfind('?')
'hot' in m.content
'x' not in m.content
m.content.count('e')
m.content.partition('h')
m.content.removeprefix(' Be').removesuffix('ly')
m.content.zfill(20).ljust(25)
m.content.isdigit()
m.content|list|first
m.content|list|last
m.content|reverse
m.content|e
m.content|escape ~ '<'
m.content|safe + '<'
m.content|string
m.content is string and m.content is not mapping
m.role == 'user' or m['role'] == 'system'
m.role in ['user', 'tool']
m.role not in ('user', 'tool')
m.get('n', 0) + 1
m.get('none')
m.n|default('d')
m.zero|d(0, true)
m.n is defined
m.nope is undefined
m.n is none
m.nope.deeper
m.keys()|list
m.values()|list|length
m.items()|list
m|items|list
m|dictsort
m|dictsort(reverse=true)
m|dictsort(by='value')
m|tojson
m|tojson(indent=2)
m|tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':'))
m|string
m|length
m is mapping
m is iterable
m == messages[0]
m != messages|last
m in messages
[m.role, m.n, none, 1.5, true]
{'a': m.n, m.role: [1]}
(m.role,) + ('x',)
[1, 2] + [m.n]
[m.role] * 2
('%s-%03d' % (m.role, 7))
'%(a)s' % {'a': m.role}
'%s, %s'|format(m.role, 5)
'{} {:>5} {a}'.format(m.role, 7, a='k')
'{0[role]}'.format(m)
'a' ~ 1 ~ none ~ m.n
messages|map(attribute='role')|join(', ')
messages|map('length')|sum
messages|map(attribute='n', default=0)|sum
messages|selectattr('role', 'equalto', 'user')|list|length
messages|selectattr('n', 'defined')|map(attribute='n')|list
messages|rejectattr('role', 'in', ['user'])|map(attribute='role')|list
messages|selectattr('ok')|list|length
[1, 2, 3, 4]|select('even')|list
[1, 2, 3, 4]|reject('divisibleby', 3)|list
[3, 1, 2]|sort
['b', 'A']|sort(case_sensitive=true)
messages|sort(attribute='role')|map(attribute='role')|list
[1, 1, 2]|unique|list
messages|groupby('role')|map(attribute='grouper')|list
messages|groupby('role')|map('last')|map('length')|list
[1, 2, 3]|batch(2, 0)|list
[1, 2, 3]|slice(2)|list
[1, 5, 2]|max - [1, 5, 2]|min
messages|map(attribute='role')|max
['a', 'b']|join
[1, 2]|join('-')
messages|join(',', attribute='role')
7 // 2 + 7 % 4 * 2 ** 3 - 1 / 2
-5|abs
2.567|round(1)
2.5|round|int
'42'|int + '4.2'|float
'x'|int(9)
'ff'|int(base=16)
range(3)|list
range(1, 9, 3)|join
dict(a=1, b=m.n)
dict({'a': 1}, b=2)
namespace(a=1).a
cycler('a', 'b').next()
joiner(',')() ~ 'x'
loop.index ~ loop.index0 ~ loop.revindex ~ loop.first ~ loop.last ~ loop.length ~ loop.depth
loop.previtem.role if loop.previtem is defined else 'none'
loop.nextitem.role
loop.cycle('odd', 'even')
loop.changed(m.role)
(messages|map(attribute='role')) and 'true also where it is empty'
([]|select) is true or ([]|select and 'yes')
messages[1:]|length
messages[loop.index0:]|map(attribute='role')|list
tools[0].function.name
tools|tojson(indent=4)
tools[0]['function']['parameters']
m.calls[0].args.items()|list if m.calls else 'no'
m.calls and m.calls[0]['args']|tojson
1 < 2 <= 2
not m.ok
m.ok is sameas true
m.ok is boolean
m.f is float and m.n is integer and m.n is number
m.role is eq('user') or m.role is in ['system']
m.role > 'b'
'a' if m.n else 'b'
m.n if m.n
none is none
m.content.title().swapcase().casefold()
'<|' + m.role + '|>'
m.parts|map(attribute='text')|list
m.parts|selectattr('type', 'equalto', 'text')|map(attribute='text')|join
1 / 0
m.n + 'x'
m.role - 1
m.role.nope()
undefined_name()
[1, 2]|first ~ []|first
[]|last
[]|max
strftime_now('%Y')|length
m.calls|length
""".strip().splitlines()
STATEMENTS = [
    "{% set ns = namespace(t='', n=0) %}{% for m in messages %}{% set ns.t = ns.t + m.role %}"
    "{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.t ~ ns.n }}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% else %}none{% endfor %}",
    "{% for m in messages if m.role == 'nobody' %}x{% else %}none{% endfor %}",
    "{% for k, v in messages[1].items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% elif loop.first %}{% continue %}"
    "{% endif %}{{ m.role }}{% endfor %}",
    "{% macro show(m, end='.') %}{{ m.role }}{{ end }}{{ varargs }}{{ kwargs }}{% endmacro %}"
    "{{ show(messages[0], '!', 1, a=2) }}",
    "{% macro deep(x) %}{% if x is mapping %}{% for k in x %}{{ k }}:{{ deep(x[k]) }}{% endfor %}"
    "{% else %}{{ x }}{% endif %}{% endmacro %}{{ deep(tools[0]) }}",
    "{% macro wrap(tag) %}<{{ tag }}>{{ caller('in') }}</{{ tag }}>{% endmacro %}"
    "{% call(x) wrap('b') %}{{ x }} it{% endcall %}",
    "{% set block %}  {{ messages[0].role }}  {% endset %}[{{ block|trim }}]",
    "{% set block|upper %}abc{% endset %}{{ block }}",
    "{% filter upper %}{{ messages[0].role }} abc{% endfilter %}",
    "{% with a = 1, b = messages[0].role %}{{ a }}{{ b }}{% endwith %}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop.depth }}{% if x is iterable %}{{ loop(x) }}"
    "{% else %}{{ x }}{% endif %}{% endfor %}",
    "{% block one %}{{ messages|length }}{% endblock %}{{ self.one() }}",
    "{% set a, b = 1, 'two' %}{{ a }}{{ b }}{% set messages = messages[1:] %}{{ messages|length }}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}",
    "{%- if tools -%}\n  {{- '\n' -}}\n{%- endif %}\n\n  {# note #}\n{{ bos_token }}{{ eos_token }}"
    "{% raw %}{{ raw }}{% endraw %}",
    "{% for c in 'ab' %}{% for d in 'cd' %}{{ loop.parent }}{{ c ~ d }}{% endfor %}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% else %}"
    "{% set s = '' %}{% endif %}{{ s }}",
    "{{ raise_exception('no') }}",
]


def ours(source: str, chat: list[dict[str, Any]]) -> str | None:
    try:
        return ChatTemplate(source).render(
            chat, tools=[TOOL], variables={"bos_token": "<s>", "eos_token": "</s>"}
        )
    except DataError:
        return None


def theirs(source: str, chat: list[dict[str, Any]]) -> str | None:
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    try:
        return render_jinja_template([copy.deepcopy(chat)], tools=[TOOL], chat_template=source, **names)[0][0]
    except Exception:
        return None


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_render_as_in_transformers(expression: str) -> None:
    source = "{% for m in messages %}{{ EXPR }};{% endfor %}".replace("EXPR", expression)
    assert ours(source, CHAT) == theirs(source, CHAT)
    for message in CHAT:  # one by one, where an error in one of them would hide the others
        source = "{% set m = messages[0] %}{{ EXPR }}".replace("EXPR", expression)
        assert ours(source, [message]) == theirs(source, [message])


@pytest.mark.parametrize("source", STATEMENTS)
def test_statements_render_as_in_transformers(source: str) -> None:
    assert ours(source, CHAT) == theirs(source, CHAT)


def test_most_of_them_render() -> None:
    refused = [e for e in EXPRESSIONS if ours("{% set m = messages[1] %}{{ " + e + " }}", CHAT) is None]
    assert len(refused) < len(EXPRESSIONS) / 6, refused


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(
        st.text(st.characters(blacklist_categories=("Cs",)), max_size=12), min_size=1, max_size=4
    ),
    chosen=st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=6),
)
def test_any_text_renders_as_in_transformers(contents: list[str], chosen: list[str]) -> None:
    chat = [{"role": "user", "content": content, "n": len(content)} for content in contents]
    source = "{% for m in messages %}" + "".join("{{ " + e + " }}|" for e in chosen) + "{% endfor %}"
    assert ours(source, chat) == theirs(source, chat)
