"""The environment in which chat templates run: jinja2's immutable sandbox, closed, and metered throughout.

jinja2's sandbox keeps a template away from Python; it bounds neither memory nor time. Here a template has
only the names in `template_guards.py`, and its syntax tree is rewritten before it is compiled, so that what
jinja2 writes out as bare Python asks the `Meter` of the rendering too:

    for, macro, block      a step at each pass
    a ~ b                  the texts' sizes are added up first
    a + b, a * b, ...      `call_binop`
    [a, b], {a: b}, a[1:]  counted as memory
    a == b, a in b         both are measured first
    {{ a }}                `finalize`
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from glm_train.text.template_guards import ATTRIBUTES, FILTERS, TESTS, check_arithmetic, check_method
from glm_train.text.template_limits import current

MAX_TOKENS = 10_000
# Filters of our own that the rewritten tree calls. A template cannot spell a name with a blank.
_STEP, _JOIN, _KEEP, _KEY, _OPERAND = " step", " join", " keep", " key", " operand"
_REFUSED: dict[type, str] = {
    nodes.Include: "include",
    nodes.Import: "import",
    nodes.FromImport: "import",
    nodes.Extends: "extends",
    nodes.NSRef: "attributes with an underscore in front",
    nodes.ScopedEvalContextModifier: "autoescape",
}
_SIZED = (tuple, list, dict)
_UNMEASURED = (Macro, LoopContext, Cycler, Joiner)


class Sandbox(ImmutableSandboxedEnvironment):
    """A jinja2 environment for foreign templates. `filters` and `globals` are added to what it has."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, extensions: list[Any], filters: dict[str, Any], names: dict[str, Any]) -> None:
        # Not optimised: constant expressions would be computed while the template is compiled, without limits.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_TokenLimit, *extensions],
            optimized=False,
            finalize=_printed,
        )
        own = {_STEP: _step, _JOIN: _join, _KEEP: _keep, _KEY: _key, _OPERAND: _operand}
        self.filters = {**FILTERS, **filters, **own}
        self.tests = dict(TESTS)
        mine = {name: self.globals[name] for name in ("range", "cycler", "joiner", "namespace")}
        self.globals = {**mine, "dict": _dict, **names}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        known = next((names for kind, names in ATTRIBUTES.items() if isinstance(obj, kind)), frozenset())
        return attr in known and super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        unsafe = super().unsafe_undefined(obj, attribute)
        # jinja2 lets a template go on with an undefined value, which is empty where it is printed.
        return str(unsafe.deeper) if attribute.startswith("_") else unsafe

    def getitem(self, obj: Any, argument: Any) -> Any:
        current().work(500)  # filters look up attributes in loops of their own
        if type(obj) is dict and type(argument) is str and argument in obj:  # nine in ten
            return obj[argument]
        return super().getitem(obj, _key(argument))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        meter = current()
        if operator == "+" and type(left) is type(right) is str:  # nine in ten
            meter.check(len(left) + len(right))
            return meter.keep(left + right)
        meter.work(100)
        check_arithmetic(meter, operator, left, right)
        return meter.keep(super().call_binop(context, operator, left, right))

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = current()
        if isinstance(obj, _UNMEASURED) or obj is Namespace:  # they only hold what they are given
            meter.check_items(sum(len(value) for value in (args, kwargs, *args) if isinstance(value, _SIZED)))
        else:
            given = {name: value for name, value in kwargs.items() if name[:1] != "_"}
            for value in (*args, *given.values()):
                meter.measure(value)
            method = getattr(obj, "__wrapped__", obj)  # the sandbox wraps `format`
            owner = getattr(method, "__self__", None)
            if isinstance(owner, str):
                check_method(meter, owner, method.__name__, args, given)
            elif isinstance(owner, list | tuple) and args:
                meter.measure(owner)
        meter.work(200)
        return meter.keep(super().call(context, obj, *args, **kwargs))

    def concat(self, parts: Iterable[str]) -> str:
        """What blocks and macros wrote, as one text."""
        return current().joined(list(parts))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Rewriter(self).visit(super()._parse(source, name, filename))


class _TokenLimit(Extension):
    """Compiling takes some 50 microseconds for each token of the source."""

    def filter_stream(self, stream: TokenStream) -> Iterable[Token]:
        for count, token in enumerate(stream):
            if count == MAX_TOKENS:
                raise jinja2.TemplateSyntaxError("a template of so many parts is too large", token.lineno)
            yield token


class _Rewriter(NodeTransformer):
    """Puts our filters around the parts of a syntax tree that jinja2 would write as bare Python."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment
        self._visited = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        self._visited += 1
        return super().visit(node, *args, **kwargs)

    def _made(self, kind: type, fields: tuple[Any, ...], like: nodes.Node) -> Any:
        return kind(*fields, lineno=like.lineno, environment=self._environment)

    def _wrap(self, name: str, node: Any, *args: nodes.Expr) -> Any:
        return self._made(nodes.Filter, (node, name, list(args), [], None, None), node)

    def _stepping(self, node: Any) -> Any:
        before = self._visited
        self.generic_visit(node)
        weight = self._made(nodes.Const, (self._visited - before + 1,), node)
        step = self._wrap(_STEP, weight)
        if isinstance(node, nodes.For) and node.test is not None:
            # The body does not see the items that the test keeps out. A step is true.
            node.test = self._made(nodes.And, (step, node.test), node)
        else:
            node.body.insert(0, self._made(nodes.ExprStmt, (step,), node))
        return node

    visit_For = visit_Macro = visit_Block = visit_CallBlock = _stepping

    def _refused(self, node: nodes.Node) -> Any:
        what = _REFUSED[type(node)]
        raise jinja2.TemplateSyntaxError(f"a chat template cannot use {what}", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = visit_ScopedEvalContextModifier = (
        _refused
    )

    def visit_NSRef(self, node: nodes.NSRef) -> Any:
        return self._refused(node) if node.attr.startswith("_") else node

    def visit_Concat(self, node: nodes.Concat) -> Any:
        self.generic_visit(node)
        return self._wrap(_JOIN, *node.nodes)

    def _kept(self, node: Any) -> Any:
        return self._wrap(_KEEP, self.generic_visit(node))

    visit_List = _kept

    def visit_Tuple(self, node: nodes.Tuple) -> Any:
        return self.generic_visit(node) if node.ctx == "store" else self._kept(node)

    def visit_Dict(self, node: nodes.Dict) -> Any:
        kept = self._kept(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = self._wrap(_KEY, pair.key)
        return kept

    def visit_Getitem(self, node: nodes.Getitem) -> Any:
        self.generic_visit(node)
        return self._wrap(_KEEP, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> Any:
        last = node.ops[-1]
        if len(node.ops) == 1 and (_is_short(last.expr) or (_is_short(node.expr) and "in" not in last.op)):
            # With a constant there is little to compare: the usual `message.role == "user"`.
            if not _is_short(node.expr):
                node.expr = self.visit(node.expr)
            if not _is_short(last.expr):
                last.expr = self.visit(last.expr)
            return node
        self.generic_visit(node)
        parts: list[Any] = [node, *node.ops]
        for part in parts:
            if not isinstance(part.expr, nodes.Const):
                part.expr = self._wrap(_OPERAND, part.expr)
        return node


def _is_short(node: nodes.Node) -> bool:
    """A constant, or a list of a few."""
    if isinstance(node, nodes.List | nodes.Tuple):
        return len(node.items) <= 20 and all(isinstance(item, nodes.Const) for item in node.items)
    return isinstance(node, nodes.Const)


@jinja2.pass_context  # keeps jinja2 from calling it while it compiles
def _printed(context: Any, value: Any) -> Any:
    meter = current()
    if type(value) is str:
        meter.work(100)
        return value
    return meter.text(value)


def _step(weight: Any) -> bool:
    current().step(weight if type(weight) is int and weight > 0 else 1)
    return True


def _join(*values: Any) -> str:
    meter = current()
    return meter.joined([meter.text(value) for value in values])


def _keep(value: Any) -> Any:
    return current().keep(value)


def _operand(value: Any) -> Any:
    current().measure(value)
    return value


def _key(value: Any) -> Any:
    """A key that is looked up or stored. Tuples are none: deeply nested ones break Python when they are
    hashed."""
    if isinstance(value, tuple):
        raise SecurityError("a key of several values")
    return value


def _dict(pairs: Any = (), /, **named: Any) -> dict[str, Any]:
    """`dict(...)`. The class itself would offer `dict.update`, which changes the caller's messages past the
    sandbox, and take numbers as keys that are chosen to collide."""
    result = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        if not isinstance(key, str):
            raise SecurityError("the keys of dict() are texts")
        result[key] = value
    return result | named
