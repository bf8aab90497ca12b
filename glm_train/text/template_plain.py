"""Templates that can do nothing but write out what they are given: these need no meter, which takes most of the time.

Of such a template all syntax is known to be harmless (`_EXPRESSIONS`): it walks once through the messages, looks at
their role, content and metadata, and writes them. It calls nothing but `get`, `strip` and `split`, keeps nothing that
grows, and has few parts, so that time, memory and output are a small multiple of the conversation's size. All of
GLM-4's templates are so where a conversation has no tools; what they do with tools is cut off. Anything else, and
every conversation on which this fails, is rendered by the metered sandbox, whose word is the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

MAX_NODES = 400
MAX_SIZE = 200_000  # characters of a conversation
KEYS = frozenset({"role", "content", "metadata"})  # of a plain message
# Names that mean something already, here or in the sandbox.
_GIVEN = frozenset({"messages", "tools", "add_generation_prompt", "documents", "loop", "self", "caller"})
_GLOBALS = frozenset({"range", "cycler", "joiner", "namespace", "dict", "raise_exception", "strftime_now"})
_LITERALS = (str, int, bool, type(None))
_TESTS = {"defined", "undefined", "none", "string"}


class PlainTemplate:
    """The template without its limits, for conversations that are small and plain."""

    def __init__(self, environment: jinja2.Environment, tree: nodes.Template) -> None:
        self._compiled = environment.from_string(tree)

    def render(self, names: dict[str, Any], size: int) -> str | None:
        """The text of a conversation whose messages hold only `KEYS`, all text; None where it is for the sandbox to
        render it. `names` are all names that the template may read."""
        if size > MAX_SIZE or names["tools"] is not None:
            return None
        try:
            text = "".join(self._compiled.root_render_func(self._compiled.new_context(names)))
        except Exception:  # the sandbox says what is wrong
            return None
        return text if len(text) < 4 * MAX_SIZE else None


def plain_template(environment: jinja2.Environment, source: str) -> PlainTemplate | None:
    """The template of a source that `environment` can parse, where it is harmless."""
    try:
        tree = _WithoutTools().visit(environment.parse(source))
    except Exception:  # the sandbox says what is wrong
        return None
    few = sum(1 for _ in tree.find_all(nodes.Node)) <= MAX_NODES
    return PlainTemplate(environment, tree) if few and _Checker().all_fine(tree.body) else None


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
                return isinstance(value, _LITERALS)
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
                return self._expression(node.expr) and all(map(self._expression, items))
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
        return self._expression(owner) and len(node.args) == (name == "split")
