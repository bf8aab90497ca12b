"""A chat template is foreign code. Each of these is refused with a message that says where and why, executes
nothing, changes nothing, and takes at most 2 seconds and 512 MB."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glm_train.errors import CheckpointError, DataError
from glm_train.text.tokenizer import GlmTokenizer
from support.tiny_tokenizer import make_tokenizer_folder

DRIVER = Path(__file__).with_name("template_driver.py")
MEGA = "{% set b = 'a' * 1000000 %}"
NS = "{% set n = namespace(x=['a'], y=['a'], l=[]) %}"
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}BODY{% endfor %}{% endfor %}"


def grow(step: str, after: str, times: int = 60) -> str:
    """A template that does `step` many times, and then `after`."""
    return f"{NS}{{% for i in range({times}) %}}{step}{{% endfor %}}{after}"


TOWER = "{% set n.x = [n.x, n.x] %}"  # 2 ** 60 letters, if it is ever walked through
TUPLES = "{% set n.x = (n.x, n.x) %}"

# Ways out of the sandbox, or into the caller's data.
ESCAPES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attribute by item": "{{ ''['__class__']['__mro__'] }}",
    "attribute by filter": "{{ ''|attr('__class__') }}",
    "attribute by map": "{{ ['']|map(attribute='__class__')|list }}",
    "cycler's globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "lipsum's globals": "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "function's globals": "{{ raise_exception.__globals__['sys'] }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "namespace's class": "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns }}",
    "self's context": "{{ self._TemplateReference__context.parent }}",
    "str.format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "str.format of one": "{{ '{0.__class__}'.format('') }}",
    "format_map": "{{ '{a.__class__}'.format_map({'a': ''}) }}",
    "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "from import": "{% from 'os' import system %}{{ system('touch CANARY') }}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "append": "{{ messages.append({'role': 'user'}) }}",
    "update": "{{ messages[0].update({'role': 'system'}) }}",
    "dict.update": "{{ dict.update(messages[0], role='system') }}",
    "indent adds to lists": "{{ messages|indent }}",
    "globals of a macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "the clock's name": "{% macro glm_train_tick() %}{% endmacro %}" + FOREVER.replace("BODY", ""),
    "the step's filter": FOREVER.replace("BODY", "{{ [-10**9]|map(' step')|list }}"),
}
# Values that grow without end.
MEMORY = {
    "double by ~": grow("{% set n.x = n.x ~ n.x %}", "{{ n.x }}"),
    "double by +": f"{NS}{{% set n.x = 'a' %}}{{% for i in range(60) %}}{{% set n.x = n.x + n.x %}}{{% endfor %}}",
    "double a list": grow("{% set n.x = n.x + n.x %}", ""),
    "double a list by *": grow("{% set n.x = n.x * 2 %}", ""),
    "double by a macro": "{% macro f(x) %}{{ f(x + x) }}{% endmacro %}{{ f('abc') }}",
    "double by captured output": grow(
        "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}", "{{ n.x }}"
    ),
    "* of text": "{{ 'x' * 10**9 }}",
    "* of a list": "{{ [1] * 10**9 }}",
    "**": "{{ 9 ** (9 ** 9) }}",
    "squares": "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "%*d": "{{ '%*d' % (10**9, 1) }}",
    "%999999999d": "{{ '%999999999d' % 1 }}",
    "% in a test": "{{ '%999999999d' is odd }}",
    "% in another test": "{{ ['%999999999d']|select('divisibleby', 1)|list }}",
    "% with a nested name": "{{ '%(a(b))999999999d' % {'a(b)': 1} }}",
    "% many times": MEGA + "{{ '%(b)s' * 900 % {'b': b} }}",
    "format wide": "{{ '{:>999999999}'.format(1) }}",
    "format wide in other digits": "{{ '{:>٩٩٩٩٩٩٩٩٩}'.format(1) }}",
    "format wide behind a bracket": "{{ '{0[}]:>999999999}'.format({'}': 1}) }}",
    "format many times": MEGA + "{{ ('{0}' * 900).format(b) }}",
    "center": "{{ 'x'|center(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "tabs": "{{ ('\\t' * 1000000).expandtabs(999) }}",
    "translate": "{{ ('a' * 1000000).translate({97: 'b' * 10000}) }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "str.replace of nothing": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "join": "{{ range(99999)|join('b' * 100000) }}",
    "str.join": "{{ ('b' * 100000).join('a' * 100000) }}",
    "indent": "{{ ('\\na' * 100000)|indent('x' * 100000) }}",
    "tojson indented": "{{ messages|tojson(indent=10**9) }}",
    "tojson indented by text": "{{ range(9999)|list|tojson(indent='x' * 99999) }}",
    "tojson separated": "{{ range(99999)|list|tojson(separators=('x' * 100000, ':')) }}",
    "slice": "{{ [1]|slice(10**9)|list }}",
    "batch": "{{ [1]|batch(10**9, 'x')|list }}",
    "list of letters": "{{ ('汉' * 2000000)|list|length }}",
    "title": "{{ ('汉-' * 1000000)|title|length }}",
    "sum of lists": "{{ ([range(9999)|list] * 9999)|sum(start=[])|length }}",
    "round": "{{ 5|round(10**9, 'ceil') }}",
    "round of text": "{{ 'x'|round(9, 'ceil') }}",
    "bytes of a number": "{{ (1).to_bytes(10**9, 'big') }}",
    "escapes of escapes": "{{ ('&' * 1000000)|e|e|e|e|e|length }}",
    "hoard of texts": grow("{% set n.l = [n.l, 'x' * 1000000 ~ i] %}", "", 9999),
    "hoard of slices": MEGA + grow("{% set n.l = [n.l, b[1:]] %}", "", 9999),
    "hoard of lists": grow("{% set n.l = [n.l, range(99999)|list] %}", "", 9999),
    "hoard of pieces": grow("{% set n.l = (n.l, ('ab,' * 60000).split(',')) %}", "", 9999),
    "hoard of literals": grow("{% set n.l = (n.l, [" + "0," * 4000 + "]) %}", "", 9999),
    "captured output": MEGA + "{% set x %}{% for i in range(99999) %}{{ b }}{% endfor %}{% endset %}",
    "captured constants": "{% set x %}{% for i in range(99999) %}"
    + "x" * 50_000
    + "{% endfor %}{% endset %}",
    "filtered output": MEGA
    + "{% filter upper %}{% for i in range(99999) %}{{ b }}{% endfor %}{% endfilter %}",
    "output": "{% for i in range(90000) %}{{ 'x' * 100 }}{% endfor %}",
    "message of an error": grow(TUPLES, "{{ raise_exception(n.x) }}"),
}
# Work without end, in loops or inside one operation that nothing can interrupt.
TIME = {
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": FOREVER.replace("BODY", ""),
    "loops that a test empties": FOREVER.replace("range(99999) %}BODY", "range(99999) if false %}"),
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursion twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for x in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "recursive block": "{% block a %}{{ self.a() }}{% endblock %}",
    "tower printed": grow(TOWER, "{{ n.x }}"),
    "tower as json": grow(TOWER, "{{ n.x|tojson }}"),
    "tower joined": grow(TOWER, "{{ n.x|join }}"),
    "tower formatted": grow(TOWER, "{{ '%s' % n.x }}"),
    "tower as a name": grow(TOWER, "{{ messages[0][n.x|string] }}"),
    "towers compared": grow(TOWER + "{% set n.y = [n.y, n.y] %}", "{{ n.x == n.y }}"),
    "tower of tuples as a key": grow(TUPLES, "{{ {n.x: 1} }}"),
    "tower of tuples looked up": grow(TUPLES, "{{ messages[0][n.x] }}"),
    "tower of tuples got": grow(TUPLES, "{{ messages[0].get(n.x) }}"),
    "tower of tuples made unique": grow(TUPLES, "{{ [n.x]|unique|list }}"),
    "tower of namespaces": grow("{% set n.x = namespace(a=n.x, b=n.x) %}", "{{ n.x }}"),
    "namespace in itself": "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
    "deep tuple as a key": grow("{% set n.x = (n.x,) %}", "{{ {n.x: 1} }}", 99_999),
    "deep list printed": grow("{% set n.x = [n.x] %}", "{{ n.x }}", 99_999),
    "sort of long texts": MEGA + "{{ ([b ~ 'a', b ~ 'b'] * 99999)|sort|length }}",
    "in a list of long texts": MEGA + "{{ b ~ 'a' in [b ~ 'b'] * 99999 }}",
    "count of long texts": MEGA + "{{ ([b ~ 'b'] * 99999).count(b ~ 'a') }}",
    "comparisons of long texts": MEGA
    + "{% set c = b ~ '' %}"
    + FOREVER.replace("BODY", "{% if b == c %}{% endif %}"),
    "strip": MEGA + "{{ b.strip('b' * 999999 ~ 'a') }}",
    "search from the end": MEGA + "{{ b.rfind('ab' ~ 'a' * 500000) }}",
    "keys that collide": "{{ range(0, 99999 * (2**61 - 1), 2**61 - 1)|unique|list|length }}",
    "keys of dict() that collide": "{{ dict(range(0, 99999 * (2**61 - 1), 2**61 - 1)|batch(2)|list) }}",
    "attribute of many parts": "{{ range(999)|list|sort(attribute='a,' * 9999)|length }}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "urlize": "{{ ('www.a ' * 100000)|urlize }}",
    "wordwrap": "{{ ('a ' * 100000)|wordwrap(1) }}",
}
# Sources that are too much for the compiler.
SOURCES = {
    "long": "x" * 70_000,
    "many parts": "{{a}}" * 13_000,
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "nested blocks": "{% if a %}" * 3000 + "{% endif %}" * 3000,
    "nested loops of the compiler": "{% for a in b if a %}" * 40 + "{% endfor %}" * 40,
    "long number": "{{ " + "9" * 9000 + " }}",
    "long chain": "{{ a" + " + a" * 4000 + " }}",
}
HOSTILE = {
    f"{kind}: {name}": source
    for kind, group in {"escape": ESCAPES, "memory": MEMORY, "time": TIME, "source": SOURCES}.items()
    for name, source in group.items()
}


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "hatched"


@pytest.fixture(scope="module")
def outcomes(canary: Path) -> dict[str, Any]:
    templates = [(name, source.replace("CANARY", str(canary))) for name, source in HOSTILE.items()]
    run = subprocess.run(
        [sys.executable, str(DRIVER)], input=json.dumps(templates), capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_template_is_refused(outcomes: dict[str, Any], canary: Path, name: str) -> None:
    outcome = outcomes[name]
    assert "crash" not in outcome, outcome
    assert outcome["refusal"], outcome
    assert outcome["refusal"].startswith(("t.jinja", "the chat template (t.jinja"))
    assert 30 < len(outcome["refusal"]) < 700
    assert outcome["megabytes"] < 512
    assert "MemoryError" not in outcome["refusal"]
    assert outcome["processor"] < 1.6
    # A machine that does other work at the same time is given as long as that takes.
    assert outcome["wall"] < 2 or outcome["wall"] > 1.5 * outcome["processor"]
    assert not outcome["changed"]
    assert not canary.exists()


def test_there_are_enough_of_each_kind() -> None:
    assert min(len(ESCAPES), len(MEMORY), len(TIME)) >= 12


def test_the_driver_would_see_what_it_looks_for(tmp_path: Path) -> None:
    """A harmless template renders, and what takes memory and time is reported."""
    templates = [
        ("good", "{{ messages[0].content }}"),
        ("list", "{% set x = range(99999)|list * 2 %}{{ x|length }}"),
    ]
    run = subprocess.run(
        [sys.executable, str(DRIVER)], input=json.dumps(templates), capture_output=True, text=True, check=True
    )
    report = json.loads(run.stdout)
    assert report["good"]["text"] == "hi"
    assert report["good"]["refusal"] is None
    assert report["list"]["text"] == "199998"
    assert report["list"]["megabytes"] > 1
    assert report["list"]["processor"] > 0


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "argument"])
def test_a_hostile_template_of_a_folder_is_refused_by_name(tmp_path: Path, place: str) -> None:
    source = HOSTILE["memory: double by ~"]
    make_tokenizer_folder(tmp_path, template=source if place == "chat_template.jinja" else "")
    if place == "tokenizer_config.json":
        path = tmp_path / place
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": source}))
    tokenizer = GlmTokenizer.from_pretrained(tmp_path)
    options = {"chat_template": source} if place == "argument" else {}
    chat = [{"role": "user", "content": "hi"}]
    where = "the argument chat_template" if place == "argument" else place
    with pytest.raises(DataError, match=rf"{where}.* cannot render this conversation: .* is too large"):
        tokenizer.apply_chat_template(chat, **options)
    with pytest.raises(CheckpointError, match="cannot use include"):
        tokenizer.apply_chat_template(chat, chat_template="{% include 'x' %}")


@pytest.mark.parametrize("shape", [(1, 1_000_000), (1000, 1000), (10_000, 100)])
def test_long_chats_stay_far_from_the_limits(tiny_tokenizer_folder: Path, shape: tuple[int, int]) -> None:
    """A megabyte of text renders in a tenth of the time it may take."""
    count, length = shape
    text = ("北京 ab\n" * length)[:length]
    chat = [{"role": ("user", "assistant")[i % 2], "content": text} for i in range(count)]
    tokenizer = GlmTokenizer.from_pretrained(tiny_tokenizer_folder)
    patched = pytest.MonkeyPatch()
    patched.setattr("glm_train.text.template.MAX_SECONDS", 0.1)
    try:
        rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    finally:
        patched.undo()
    assert rendered.count(text) == count
    assert len(rendered) > 1_000_000
