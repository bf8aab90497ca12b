"""What each filter, test, method and operator of a template may be given, so that none makes or walks more
than the rendering's `Meter` allows.

`FILTERS`, `TESTS` and `ATTRIBUTES` are also all that there is: a name that is not here does not exist for a
template.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from string import Formatter
from typing import Any

from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import SecurityError
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.utils import Cycler

from glm_train.text.template_limits import LAZY, MAX_INT_BITS, Meter, current

MAX_WIDTH = 999
_MAX_FIELDS = 1000
_MAX_SHORT = 100  # characters of what is stripped off or looked for from the end
# `%9999d`, `%*d`, `%.9999f`, and a name in brackets that holds brackets.
_WIDE_FIELD = re.compile(r"%(?:\([^()]*\))?[-+ #0-9.]*(?:\*|[0-9]{4})|%\([^()]*\(")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ATTRIBUTES: dict[type, frozenset[str]] = {
    str: _names(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii"
        " isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower"
        " lstrip partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split"
        " splitlines startswith strip swapcase title upper zfill"
    ),
    dict: _names("copy get items keys values"),
    list: _names("copy count index"),
    tuple: _names("count grouper index list"),  # two are those of groupby's tuples
    LoopContext: _names(
        "changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"
    ),
    Cycler: _names("current next reset"),
}


def refuse_wide(*widths: Any) -> None:
    """Raise where a number pads to more than `MAX_WIDTH` characters."""
    if any(isinstance(width, int) and width > MAX_WIDTH for width in widths):
        raise SecurityError(f"text padded to more than {MAX_WIDTH} characters is too large")


def check_percent(meter: Meter, form: str, values: Any) -> None:
    """`form % values`: no wide fields, and no more text than all fields filled with the longest value."""
    if _WIDE_FIELD.search(form):
        refuse_wide(MAX_WIDTH + 1)
    _check_fields(meter, form, form.count("%"), values)


def check_format(meter: Meter, form: str, values: Any) -> None:
    """`form.format(*values)`, likewise; the fields are found as `format` finds them."""
    if form.count("{") > 2 * _MAX_FIELDS:
        raise SecurityError(f"a format string of more than {_MAX_FIELDS} fields is too large")
    fields = [field for field in Formatter().parse(form) if field[1] is not None]
    # Of any script: `format` reads all of Unicode's digits.
    if any("{" in (spec or "") or re.search(r"\d{4}", spec or "") for _, _, spec, _ in fields):
        refuse_wide(MAX_WIDTH + 1)
    _check_fields(meter, form, len(fields), values)


def _check_fields(meter: Meter, form: str, fields: int, values: Any) -> None:
    if fields > _MAX_FIELDS:
        raise SecurityError(f"a format string of {fields} fields is too large")
    count, chars, _ = meter.measure(values)
    meter.check(len(form) + fields * (chars + 30 * count))


def check_arithmetic(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """`left operator right` for numbers, texts and lists."""
    if operator == "%" and isinstance(left, str):
        check_percent(meter, left, right)
    elif isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        if operator == "*":
            bits += right.bit_length()
        elif operator == "**":
            bits *= max(right, 0)
        if max(bits, right.bit_length()) > MAX_INT_BITS:
            raise SecurityError(f"the exponent {right} is too large" if operator == "**" else "a huge number")
    elif operator in ("+", "*"):
        for sequence, other in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple):
                size = len(sequence)
                if operator == "*":
                    size *= other if isinstance(other, int) else 1
                else:
                    size += len(other) if isinstance(other, str | list | tuple) else 0
                meter.check(size) if isinstance(sequence, str) else meter.check_items(size)
    elif not isinstance(left, int | float | Undefined) or not isinstance(right, int | float | Undefined):
        names = f"{type(left).__name__} and {type(right).__name__}"
        raise SecurityError(f"{operator} is for numbers, not for {names}")


def check_method(meter: Meter, text: str, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """`text.name(*args, **named)`."""
    given = [*args, *named.values()]
    first = given[0] if given else None
    meter.check(len(text))
    if name in ("format", "format_map"):
        check_format(meter, text, given)
    elif name in ("center", "ljust", "rjust", "zfill"):
        refuse_wide(*given)
    elif name == "join":
        _check_join(meter, first, text)
    elif name == "replace":
        _check_replace(meter, text, *given[:2])
    elif name in ("split", "rsplit", "splitlines"):
        pieces = text.count(first) if isinstance(first, str) and first else len(text) // 2
        meter.check_items(pieces)
    if name in _SHORT_ARGUMENT and isinstance(first, str) and len(first) > _MAX_SHORT:
        raise SecurityError(f"{name} takes at most {_MAX_SHORT} characters")


_SHORT_ARGUMENT = ("strip", "lstrip", "rstrip", "rsplit", "rpartition", "rfind", "rindex")


def _check_replace(meter: Meter, text: Any, old: Any = "", new: Any = "", *rest: Any, **named: Any) -> None:
    text, old, new = meter.text(text), meter.text(old), meter.text(new)
    found = text.count(old) if old else len(text) + 1
    meter.check(len(text) + found * len(new))


def _check_join(meter: Meter, value: Any, d: Any = "", attribute: Any = None) -> None:
    _check_attribute(meter, value, attribute)
    values, chars, _ = meter.measure(value)
    values = len(value) if isinstance(value, str) else values
    meter.check(values * len(meter.text(d)) + chars)


def _check_indent(meter: Meter, text: Any, width: Any = 4, *rest: Any, **named: Any) -> None:
    if not isinstance(text, str):  # jinja2 would add the line break to a list in its place
        raise SecurityError(f"indent is for text, not for {type(text).__name__}")
    refuse_wide(width)
    lines = sum(map(text.count, _LINE_ENDS)) + 1
    meter.check_items(lines)
    meter.check(len(text) + lines * (width if isinstance(width, int) else len(meter.text(width))))


_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # those of splitlines


def _check_pieces(meter: Meter, value: Any, *rest: Any, **named: Any) -> None:
    for count in (*rest, *named.values()):
        if isinstance(count, int):
            meter.check_items(count)
    _check_length(meter, value)


def _check_length(meter: Meter, value: Any, *rest: Any, **named: Any) -> None:
    if isinstance(value, str | list | tuple | dict | range):
        meter.check_items(len(value))


def _check_attribute(meter: Meter, value: Any, *rest: Any, attribute: Any = None, **named: Any) -> None:
    """For filters that look up an attribute of every item: `a.b,c.d` is done part by part."""
    _check_length(meter, value)
    for path in (*rest, attribute):
        if isinstance(path, str) and path.count(".") + path.count(",") > 16:
            raise SecurityError("an attribute of so many parts is too large")


def _check_first(meter: Meter, value: Any, *rest: Any, attribute: Any = None, **named: Any) -> None:
    """Those where the attribute is the first argument, and the others are text."""
    _check_attribute(meter, value, *rest[:1], attribute=attribute)


def _check_map(meter: Meter, value: Any, *rest: Any, attribute: Any = None, **named: Any) -> None:
    _check_attribute(meter, value, attribute)


def _check_number(meter: Meter, text: Any, *rest: Any, **named: Any) -> None:
    if isinstance(text, str) and len(text) > MAX_WIDTH:
        raise SecurityError(f"a number of {len(text):,} digits is too large")


def _check_round(meter: Meter, value: Any, precision: Any = 0, *rest: Any, **named: Any) -> None:
    if isinstance(value, str | list | tuple):  # 10 ** precision times the text
        raise SecurityError("round is for numbers")
    if isinstance(precision, int) and abs(precision) > 100:
        raise SecurityError(f"the precision {precision} is too large")


def _check_sum(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> None:
    _check_attribute(meter, value, attribute)
    if not isinstance(start, int | float):
        raise SecurityError("sum is for numbers")


def _check_trim(meter: Meter, text: Any, chars: Any = None) -> None:
    if isinstance(chars, str) and len(chars) > _MAX_SHORT:
        raise SecurityError(f"trim takes at most {_MAX_SHORT} characters")


def _check_format(meter: Meter, form: Any, *values: Any, **named: Any) -> None:
    check_percent(meter, meter.text(form), [*values, *named.values()])


def _check_numbers(meter: Meter, value: Any, *rest: Any) -> None:
    """Tests that compute a remainder: of a text it would be a format."""
    if isinstance(value, str):
        raise SecurityError("the remainder of a text")


def _check_width(meter: Meter, text: Any, *widths: Any, **named: Any) -> None:
    refuse_wide(*widths, *named.values())


Rule = Callable[..., None]
# Filters whose value is measured as a whole, and those that look at no more than its items, or only pick one.
_WALKING = _names(
    "capitalize center dictsort e escape float format groupby indent int join lower max min replace safe sort"
    " string title trim truncate unique upper"
)
_LIGHT = _names(
    "abs batch count d default first items last length list map reject rejectattr reverse round select selectattr"
    " slice sum"
)
_RULES: dict[str, Rule] = {
    "batch": _check_pieces,
    "center": _check_width,
    "float": _check_number,
    "format": _check_format,
    "groupby": _check_first,
    "indent": _check_indent,
    "int": _check_number,
    "join": _check_join,
    "list": _check_length,
    "map": _check_map,
    "max": _check_attribute,
    "min": _check_attribute,
    "rejectattr": _check_first,
    "replace": _check_replace,
    "reverse": _check_length,
    "round": _check_round,
    "selectattr": _check_first,
    "slice": _check_pieces,
    "sort": _check_attribute,
    "sum": _check_sum,
    "title": _check_length,
    "trim": _check_trim,
    "unique": _check_attribute,
}
_REMAINDERS = ("divisibleby", "even", "odd")
# Tests that neither walk nor print their value.
_PLAIN_TESTS = _names(
    "boolean callable defined escaped false float integer iterable mapping none number sameas sequence string"
    " true undefined"
)


def guarded(function: Any, rule: Rule | None = None, *, walks: bool = True) -> Any:
    """`function`, a filter or test of jinja2, behind `rule`; `walks`: its value is measured first."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0  # behind the environment or context

    @wraps(function)
    def limited(*args: Any, **named: Any) -> Any:
        meter = current()
        for value in (*args[first + (not walks) :], *named.values()):
            meter.measure(value)
        meter.work(200)
        if rule is not None:
            rule(meter, *args[first:], **named)
        result: Any = function(*args, **named)
        lazy = isinstance(result, LAZY)
        return meter.keep(meter.all_of(result) if lazy else result)

    return limited


FILTERS = {
    name: guarded(JINJA_FILTERS[name], _RULES.get(name), walks=name in _WALKING) for name in _WALKING | _LIGHT
}
TESTS: dict[str, Any] = {
    name: guarded(test, _check_numbers if name in _REMAINDERS else None)
    for name, test in JINJA_TESTS.items()
    if name not in _PLAIN_TESTS
}
TESTS |= {name: JINJA_TESTS[name] for name in _PLAIN_TESTS}
