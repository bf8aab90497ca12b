"""YAML to plain values, keeping the line of each key. No tags, no aliases, no dates, no repeated keys."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from glm_train.config.faults import KeyPath

_YAML = "tag:yaml.org,2002:"
_PLAIN_TAGS = {f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str")}
_TEXT_TAGS = {f"{_YAML}{kind}" for kind in ("timestamp", "value")}  # a date, and the sign `=`
_PLAIN_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.]*\}")
_DEEPEST = 20


class YamlFault(Exception):
    """A text that is not a mapping of plain values. `line` is 1-based."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass
class Mapping:
    """A YAML mapping: values, the line of each key, and texts whose `${...}` is no plain reference."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    references: list[tuple[KeyPath, str]] = field(default_factory=list)


def is_plain_reference(text: str) -> bool:
    """Whether every `${` in the text opens a plain reference to a key, like `${data.max_length}`."""
    return "${" not in _PLAIN_REFERENCE.sub("", text) and "\\${" not in text


def load_mapping(text: str) -> Mapping | None:
    """Parse one YAML document; None when it holds nothing.

    Raises:
        YamlFault: a syntax error, or something other than a mapping of plain values.
    """
    try:
        _check_shape(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlFault(
            f"not valid YAML: {error.problem or error.context}.", mark.line + 1 if mark else 1
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFault(
            f"not valid YAML: the character {chr(error.character)!r} is not allowed.", line
        ) from None
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return None
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else f"the text {root.value[:40]!r}"
        raise YamlFault(f"a recipe is a mapping of settings, not {kind}.", root.start_mark.line + 1)
    mapping = Mapping()
    mapping.values = _plain(root, (), mapping)
    return mapping


def _check_shape(text: str) -> None:
    """Refuse what would cost the reader its stack or its time, before any of it is built.

    Raises:
        YamlFault: nested too deep, or an alias: a few lines of them can stand for billions of values.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            cure = "write the values out, or refer to a key with ${key}"
            raise YamlFault(f"an alias (*{event.anchor}) is not read; {cure}.", line)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise YamlFault("nested too deep for a recipe.", line)


def _plain(node: yaml.Node, path: KeyPath, mapping: Mapping) -> Any:
    if isinstance(node, yaml.MappingNode):
        _check_tag(node, {f"{_YAML}map"})
        return _plain_mapping(node, path, mapping)
    if isinstance(node, yaml.SequenceNode):
        _check_tag(node, {f"{_YAML}seq"})
        return [_plain_item(item, (*path, str(index)), mapping) for index, item in enumerate(node.value)]
    return _plain_scalar(node, path, mapping)


def _plain_item(node: yaml.Node, path: KeyPath, mapping: Mapping) -> Any:
    mapping.lines[path] = _line(node)
    return _plain(node, path, mapping)


def _plain_mapping(node: yaml.MappingNode, path: KeyPath, mapping: Mapping) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
            raise YamlFault("a key must be a plain word; merge keys (<<) are not read.", _line(key_node))
        _check_tag(key_node, _PLAIN_TAGS | _TEXT_TAGS)
        key = key_node.value
        if key in values:
            first = mapping.lines[(*path, key)]
            raise YamlFault(f"the key '{key}' is already there on line {first}.", _line(key_node))
        mapping.lines[(*path, key)] = _line(key_node)
        values[key] = _plain(value_node, (*path, key), mapping)
    return values


def _plain_scalar(node: yaml.Node, path: KeyPath, mapping: Mapping) -> Any:
    if node.tag in _TEXT_TAGS:
        return node.value
    _check_tag(node, _PLAIN_TAGS)
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError:
        raise YamlFault(f"{node.value!r} is not a {node.tag.rpartition(':')[2]}.", _line(node)) from None
    if isinstance(value, str) and not is_plain_reference(value):
        mapping.references.append((path, value))
    return value


def _check_tag(node: yaml.Node, allowed: set[str]) -> None:
    if node.tag not in allowed:
        raise YamlFault(
            f"the YAML tag {node.tag} is not read; a value is a text, number, true, false, null, list or mapping.",
            _line(node),
        )


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
