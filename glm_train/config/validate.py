"""The merged settings against the schema: unknown keys, types, limits; the dataclasses built from them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from glm_train.config.conflicts import find_conflicts
from glm_train.config.convert import Mismatch, convert
from glm_train.config.documents import Document
from glm_train.config.faults import Faults, KeyPath, dotted, either
from glm_train.config.overrides import CommandLine, Setting
from glm_train.config.paths import recipes_dir
from glm_train.config.schema import CHOICES, SECTIONS, RunConfig
from glm_train.errors import nearest

_MISSING = "???"


@dataclass(frozen=True)
class Origin:
    """Where each value came from: the command line, or a file with its line."""

    documents: list[Document]
    command: CommandLine

    def place(self, path: KeyPath) -> str:
        """In words, for the end of a message."""
        if setting := self._typed(path):
            return setting.place
        for document in reversed(self.documents):
            if path in document.lines:
                return document.place(path)
        return self.place(path[:-1]) if len(path) > 1 else self.documents[-1].place()

    def cause(self, paths: list[KeyPath]) -> str:
        """Of several keys that do not go together, those that the command line sets, or else the place of the first."""
        typed = dict.fromkeys(setting.shown for path in paths if (setting := self._typed(path)))
        if not typed:
            return self.place(paths[0])
        *first, last = typed
        return (
            f"{', '.join(first)} and {last} on the command line" if first else f"{last} on the command line"
        )

    def _typed(self, path: KeyPath) -> Setting | None:
        """The argument that sets this key, or one above or below it."""
        for setting in (*self.command.chosen.values(), *reversed(self.command.settings)):
            if setting.path[: len(path)] == path or path[: len(setting.path)] == setting.path:
                return setting
        return None

    def written(self, path: KeyPath) -> str | None:
        """The letters that the user typed for this key on the command line, unquoted."""
        settings = [setting for setting in self.command.settings if setting.path == path]
        text = settings[-1].text if settings else None
        return None if text is None or "${" in text else text


def section_types(choices: dict[str, str]) -> dict[str, type]:
    """The dataclass of every section, for these choices."""
    return {**{group: CHOICES[group][choice] for group, choice in choices.items()}, **SECTIONS}


def known_defaults(choices: dict[str, str]) -> dict[str, Any]:
    """Every key with its default as plain values; `???` where the user must give one."""
    types = section_types(choices)
    tree: dict[str, Any] = {}
    for field in dataclasses.fields(RunConfig):
        owner = types.get(field.name)
        tree[field.name] = _defaults(owner) if owner else field.default
    return tree


def _defaults(owner: type) -> dict[str, Any]:
    return {field.name: _plain_default(field) for field in dataclasses.fields(owner)}


def _plain_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is dataclasses.MISSING:
        return _MISSING
    return list(field.default) if isinstance(field.default, tuple) else field.default


def take_unknown_keys(tree: dict[str, Any], choices: dict[str, str], origin: Origin, faults: Faults) -> None:
    """Remove the keys that the schema does not have, naming each with the nearest key that it has."""
    types = section_types(choices)
    known = {field.name for field in dataclasses.fields(RunConfig)}
    for key in [key for key in tree if key not in known]:
        tree.pop(key)
        if not faults.covers((key,)):
            faults.add(_unknown((key,), choices, origin), (key,))
    for section, owner in types.items():
        values = tree.get(section)
        if not isinstance(values, dict):
            continue
        names = {field.name for field in dataclasses.fields(owner)}
        for key in [key for key in values if key not in names]:
            values.pop(key)
            if not faults.covers((section, key)):
                faults.add(_unknown((section, key), choices, origin), (section, key))


def _unknown(path: KeyPath, choices: dict[str, str], origin: Origin) -> str:
    where = f"({origin.place(path)})"
    section, key = path[0], path[-1]
    if len(path) == 2 and section in CHOICES:
        readers = [choice for choice, owner in CHOICES[section].items() if key in _defaults(owner)]
        if readers:
            other = either(f"{section}={choice}" for choice in readers)
            cure = f" Take it out, on the command line with ~{dotted(path)}."
            return f"{dotted(path)} is read by {other}, not by {section}={choices[section]} {where}.{cure}"
    if len(path) == 1 and "." in key:
        first, _, rest = key.partition(".")
        return f"'{key}': in a file, keys are nested; write `{first}:` and under it `{rest}:` {where}."
    return f"unknown key '{dotted(path)}' {where}.{_nearest_key(path, choices)}"


def _nearest_key(path: KeyPath, choices: dict[str, str]) -> str:
    types = section_types(choices)
    if len(path) == 2:
        near = nearest(path[1], [name for name in _defaults(types[path[0]]) if name != "name"])
        if near:
            return near
    everywhere = [
        f"{section}.{name}" for section, owner in types.items() for name in _defaults(owner) if name != "name"
    ]
    same_name = [key for key in everywhere if key.partition(".")[2] == path[-1]]
    if same_name:
        return f" Did you mean '{same_name[0]}'?"
    if len(path) == 1:
        return nearest(path[0], [field.name for field in dataclasses.fields(RunConfig)])
    has_settings = len(dataclasses.fields(types[path[0]])) > 1  # the name is one field
    return "" if has_settings else f" {path[0]}={choices[path[0]]} has no settings."


def build_run_config(
    tree: dict[str, Any], choices: dict[str, str], origin: Origin, faults: Faults
) -> RunConfig | None:
    """The dataclasses, or None where a fault was found."""
    types = section_types(choices)
    values: dict[str, Any] = {}
    hints = get_type_hints(RunConfig, include_extras=True)
    for field in dataclasses.fields(RunConfig):
        path: KeyPath = (field.name,)
        owner = types.get(field.name)
        if owner is None:
            values[field.name] = _value(tree[field.name], hints[field.name], path, origin, faults)
        elif path not in faults.keys:
            values[field.name] = _build_section(tree[field.name], owner, path, origin, faults)
    for fault, keys in find_conflicts(values):
        paths = [tuple(key.split(".")) for key in keys]
        if not any(map(faults.covers, paths)):
            faults.add(f"{fault} ({origin.cause(paths)}).")
    return None if faults.lines else RunConfig(**values)


def _build_section(value: Any, owner: type, path: KeyPath, origin: Origin, faults: Faults) -> Any:
    if not isinstance(value, dict):
        faults.add(
            f"{dotted(path)}: expected settings such as {path[0]}.key, got {value!r} ({origin.place(path)}).",
            path,
        )
        return None
    hints = get_type_hints(owner, include_extras=True)
    before = len(faults.lines)
    values = {
        field.name: _value(value[field.name], hints[field.name], (*path, field.name), origin, faults)
        for field in dataclasses.fields(owner)
    }
    bad = len(faults.lines) > before or any(key[:1] == path for key in faults.keys)
    return None if bad else owner(**values)


def _value(value: Any, hint: Any, path: KeyPath, origin: Origin, faults: Faults) -> Any:
    if faults.covers(path):
        return None
    if isinstance(value, str) and value == _MISSING:
        name, recipe = dotted(path), origin.documents[-1]
        own = "" if recipe.path.parent == recipes_dir() else f", or set it in {recipe.place()}"
        faults.add(f"{name} is missing: give {name}=... on the command line{own}.", path)
        return None
    try:
        return convert(value, hint, origin.written(path))
    except Mismatch as mismatch:
        faults.add(f"{dotted(path)}: {mismatch} ({origin.place(path)}).", path)
        return None
