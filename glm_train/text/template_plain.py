"""Templates that can do nothing but write out what they are given: these need no meter, which takes most of the time.

Of such a template all syntax is known to be harmless (`_Checker`): it walks once through the messages, looks at their
role, content and metadata, and writes them. It calls nothing but `get`, `strip` and `split`, searches for short marks
only, and keeps nothing that grows. So each name stands for no more text than a message or the longest literal holds:
`PlainTemplate.render` adds up before it begins what all operations can read, and counts what is written. All of GLM-4's
templates are so where a conversation has no tools; what they do with tools is cut off. Anything else, and every
conversation that is large or on which this fails, is rendered by the metered sandbox, whose word is the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

MAX_NODES = 400
MAX_SIZE = 200_000  # characters of a conversation
MAX_WORK = 10_000_000  # characters that are read: a search for a mark takes up to 50 ns for each
_MAX_MARK = (
    100  # characters of what is looked for: a search may take as many steps for each character of the text
)
_MAX_NUMBER = 10**9
_PASS = 16  # a pass through a loop, in characters
KEYS = frozenset({"role", "content", "metadata"})  # of a plain message
# Names that mean something already, here or in the sandbox.
_GIVEN = frozenset({"messages", "tools", "add_generation_prompt", "documents", "loop", "self", "caller"})
_GLOBALS = frozenset({"range", "cycler", "joiner", "namespace", "dict", "raise_exception", "strftime_now"})
_READING = (nodes.Concat, nodes.Add, nodes.Compare, nodes.Call)  # walk through the texts below them
_LITERALS = (str, int, bool, type(None))
_TESTS = {"defined", "undefined", "none", "string"}


class PlainTemplate:
    """The template without its limits, for conversations that are small and plain."""

    def __init__(self, environment: jinja2.Environment, tree: nodes.Template) -> None:
        self._compiled = environment.from_string(tree)
        literals = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self._longest = max(map(len, literals), default=0) + _PASS
        self._reads = sum(_count(node, (nodes.Name, nodes.Const)) for node in tree.find_all(_READING))

    def render(self, names: dict[str, Any], size: int) -> str | None:
        """The text of a conversation whose messages hold only `KEYS`, all text; None where it is for the sandbox to
        render it. `names` are all names that the template may read."""
        work = self._reads * (size + len(names["messages"]) * self._longest)
        if size > MAX_SIZE or work > MAX_WORK or names["tools"] is not None:
            return None
        parts, left = [], 4 * MAX_SIZE
        try:
            for part in self._compiled.root_render_func(self._compiled.new_context(names)):
                parts.append(part)
                left -= len(part)
                if left < 0:
                    return None
        except Exception:  # the sandbox says what is wrong
            return None
        return "".join(parts)


def plain_template(environment: jinja2.Environment, source: str) -> PlainTemplate | None:
    """The template of a source that `environment` can parse, where it is harmless."""
    try:
        tree = _WithoutTools().visit(environment.parse(source))
        fine = _count(tree, nodes.Node) <= MAX_NODES and _Checker().all_fine(tree.body)
        return PlainTemplate(environment, tree) if fine else None
    except Exception:  # the sandbox says what is wrong
        return None


def _count(tree: nodes.Node, kinds: Any) -> int:
    return sum(1 for _ in tree.find_all(kinds))


class _WithoutTools(NodeTransformer):
    """Cuts off what is not reached without tools: `{% if tools %}`, `{% for tool in tools %}`, and
    `{% if message.tools %}` of a message from the loop over all."""

    def __init__(self) -> None:
        self._messages: set[str] = set()

    def visit_If(self, node: nodes.If) -> Any:
        test = node.test
        told = isinstance(test, nodes.Name) and test.name == "tools"
        if isinstance(test, nodes.Getattr) and test.attr == "tools" and isinstance(test.node, nodes.Name):
            told = test.node.name in self._messages
        if not told or node.elif_:
            return self.generic_visit(node)
        return [part for inner in node.else_ for part in _listed(self.visit(inner))]

    def visit_For(self, node: nodes.For) -> Any:
        before = self._messages
        if isinstance(node.target, nodes.Name) and _is_name(node.iter, "messages"):
            self._messages = before | {node.target.name}
        self.generic_visit(node)
        self._messages = before
        return node


def _listed(found: Any) -> list[nodes.Node]:
    return found if isinstance(found, list) else [found]


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def _is_mark(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, str) and len(node.value) <= _MAX_MARK


class _Checker:
    """Whether every statement and expression is one of those that are harmless."""

    def __init__(self) -> None:
        self._messages: set[str] = set()  # names of a loop's message
        self._values: set[str] = set()  # names that were set
        self._looping = False

    def all_fine(self, body: Sequence[nodes.Node]) -> bool:
        return all(map(self._statement, body))

    def _statement(self, node: nodes.Node) -> bool:
        match node:
            case nodes.Output():
                return all(
                    isinstance(part, nodes.TemplateData) or self._expression(part) for part in node.nodes
                )
            case nodes.Scope():
                return self.all_fine(node.body)
            case nodes.If():
                return self._expression(node.test) and self.all_fine([*node.body, *node.elif_, *node.else_])
            case nodes.Assign(target=nodes.Name(name=name)) if name not in _GIVEN | _GLOBALS | self._messages:
                # What is set may be set again in the next pass, so it must not grow.
                fine = self._expression(node.node) and not any(node.find_all((nodes.Concat, nodes.Add)))
                self._values.add(name)
                return fine
            case nodes.For(target=nodes.Name(name=name)) if name not in _GIVEN | _GLOBALS | self._values:
                return self._loop(node, name)
        return False

    def _loop(self, node: nodes.For, name: str) -> bool:
        if self._looping or node.recursive or not _is_name(node.iter, "messages"):
            return False
        self._messages.add(name)
        self._looping = True
        fine = (node.test is None or self._expression(node.test)) and self.all_fine([*node.body, *node.else_])
        self._looping = False
        return fine

    def _expression(self, node: nodes.Node | None) -> bool:
        match node:
            case nodes.Const(value=value):
                return isinstance(value, _LITERALS) and (type(value) is not int or value < _MAX_NUMBER)
            case nodes.Name(name=name):
                return name == "add_generation_prompt" or name in self._values
            case nodes.Getattr(node=nodes.Name(name=name), attr=key):
                return name in self._messages and key in KEYS
            case nodes.Getitem(node=nodes.Name(name=name), arg=nodes.Const(value=key)):
                return name in self._messages and key in KEYS
            case nodes.Getitem(node=nodes.Call(node=nodes.Getattr(attr="split")) as call):
                index = node.arg.node if isinstance(node.arg, nodes.Neg) else node.arg
                return self._call(call) and isinstance(index, nodes.Const) and type(index.value) is int
            case nodes.Call(node=nodes.Getattr(attr="get" | "strip")):
                return self._call(node)
            case nodes.Compare(ops=[operation]):
                listed = operation.expr
                items = listed.items if isinstance(listed, nodes.List | nodes.Tuple) else [listed]
                searches = operation.op in ("in", "notin") and items == [listed]
                fine = self._expression(node.expr) and all(map(self._expression, items))
                return fine and (not searches or _is_mark(node.expr))
            case nodes.Concat(nodes=parts):
                return all(map(self._expression, parts))
            case nodes.Add() | nodes.And() | nodes.Or():
                return self._expression(node.left) and self._expression(node.right)
            case nodes.Not():
                return self._expression(node.node)
            case nodes.CondExpr():
                other = node.expr2 is None or self._expression(node.expr2)
                return self._expression(node.test) and self._expression(node.expr1) and other
            case nodes.Test(name=name, args=[], kwargs=[]):
                return name in _TESTS and self._expression(node.node)
        return False

    def _call(self, node: nodes.Call) -> bool:
        """`message.get("key")`, `text.strip()` and `text.split("mark")`."""
        if node.kwargs or node.dyn_args or node.dyn_kwargs or not isinstance(node.node, nodes.Getattr):
            return False
        if not all(isinstance(arg, nodes.Const) and isinstance(arg.value, str) for arg in node.args):
            return False
        owner, name = node.node.node, node.node.attr
        if name == "get":
            return isinstance(owner, nodes.Name) and owner.name in self._messages and len(node.args) in (1, 2)
        fine = len(node.args) == (name == "split") and all(map(_is_mark, node.args))
        return fine and self._expression(owner)
