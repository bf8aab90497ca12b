"""Recipe files: reading YAML with the line of every key, and the chain of recipes that a recipe builds on.

A recipe is a mapping of settings, with an optional `defaults` list in Hydra's form. The list's grammar:

    defaults:
      - base                        # or the name of a recipe, or a path relative to this file
      - override schedule: linear   # another choice for a group
      - _self_                      # this file, last
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glm_train.config.faults import Faults, KeyPath, dotted, either
from glm_train.config.paths import conf_dir, expand_home, recipes_dir
from glm_train.config.schema import CHOICES, SECTIONS
from glm_train.config.yaml_nodes import YamlFault, load_mapping
from glm_train.errors import ConfigError, nearest

_SUFFIXES = (".yaml", ".yml")


def recipes() -> list[tuple[str, str]]:
    """Name and purpose (the first comment line of the file) of every recipe that comes with the package."""
    found = []
    for path in sorted(recipes_dir().glob("*.yaml")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        found.append((path.stem, first.lstrip("# ").strip()))
    return found


def find_recipe(recipe: str) -> Path:
    """The file of a recipe, given by the name of a shipped one or by a path.

    Raises:
        ConfigError: there is no such recipe.
    """
    is_name = recipe not in ("", ".", "..") and not any(mark in recipe for mark in ("/", "\\", "~"))
    shipped = {path.stem: path for path in recipes_dir().glob("*.yaml")}
    if recipe in shipped:
        return shipped[recipe]
    path = expand_home(recipe)
    if recipe and _is_file(path):
        return path
    if recipe and path.is_dir():
        raise ConfigError(f"{recipe} is a folder; a recipe is a YAML file, such as {path / 'recipe.yaml'}.")
    if recipe and (not is_name or recipe.endswith(_SUFFIXES)):
        raise ConfigError(
            f"{recipe}: there is no such recipe file (looked from {Path.cwd()}).{_near_name(path.stem)}"
        )
    beside = [suffix for suffix in _SUFFIXES if recipe and _is_file(Path(f"{recipe}{suffix}"))]
    cure = f" There is a file ./{recipe}{beside[0]}: give that path." if beside else _near_name(recipe)
    raise ConfigError(
        f"There is no recipe named '{recipe}'.{cure} `glm-train recipes` lists them; a path works too."
    )


def _is_file(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        ConfigError: nobody can tell, because the name is impossible or a folder above is closed to us.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError:
        raise ConfigError(f"{str(path)!r}: no file can have this name.") from None


def _near_name(name: str) -> str:
    return nearest(name, [known for known, _ in recipes()])


@dataclass
class Document:
    """One recipe file, read."""

    path: Path
    body: dict[str, Any] = field(default_factory=dict)  # settings, without `defaults`
    lines: dict[KeyPath, int] = field(default_factory=dict)  # 1-based line of each key
    parents: list[Path] = field(default_factory=list)
    picks: dict[str, str] = field(default_factory=dict)  # group -> choice

    def place(self, path: KeyPath = ()) -> str:
        """`file:line` of a key, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        shown = shown_path(self.path)
        return f"{shown}:{self.lines[path]}" if path else shown


def shown_path(path: Path) -> str:
    """The path as short as it stays clear: relative to the current directory where it lies under it."""
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def read_chain(path: Path, faults: Faults) -> list[Document]:
    """The documents that make up a recipe in the order in which they are laid over one another: `base` first.

    Raises:
        ConfigError: a file cannot be read or is not YAML. Faults of content are added to `faults`.
    """
    chain: list[Document] = []
    base = read_document(conf_dir() / "base.yaml", faults)
    _visit(path, chain, [], faults)
    return [base, *(document for document in chain if document.path.resolve() != base.path.resolve())]


def _visit(path: Path, chain: list[Document], above: list[Path], faults: Faults) -> None:
    if path.resolve() in above:
        faults.add(f"{shown_path(path)}: this recipe builds on itself, by way of {shown_path(above[-1])}.")
        return
    if any(document.path.resolve() == path.resolve() for document in chain):
        return
    document = read_document(path, faults)
    for parent in document.parents:
        _visit(parent, chain, [*above, path.resolve()], faults)
    chain.append(document)


def read_document(path: Path, faults: Faults) -> Document:
    """Read one recipe file.

    Raises:
        ConfigError: it cannot be read, or is not a YAML mapping.
    """
    shown = shown_path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: not UTF-8 text (byte {error.start}). Save the file as UTF-8.") from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read ({error.strerror}).") from None
    try:
        mapping = load_mapping(text)
    except YamlFault as fault:
        raise ConfigError(f"{shown}:{fault.line}: {fault}") from None
    if mapping is None:
        raise ConfigError(
            f"{shown}: the file is empty. A recipe holds settings, such as `data: {{train: chat.jsonl}}`; "
            f"`glm-train show quickstart` prints a whole one."
        )
    document = Document(path, mapping.values, mapping.lines)
    for key, text in mapping.references:
        faults.add(reference_fault(dotted(key), text, document.place(key)), key)
        _remove(document.body, key)
    if document.body.pop("hydra", None) is not None:
        faults.add(f"hydra: Hydra's own settings are not read from a recipe ({document.place(('hydra',))}).")
    _read_defaults(document, faults)
    for section in (*CHOICES, *SECTIONS):
        if document.body.get(section, {}) is None:
            del document.body[section]  # `schedule:` with everything under it commented out
    for group in CHOICES:
        _read_name(document, group, faults)
    return document


def reference_fault(key: str, text: str, place: str) -> str:
    """The message for a `${...}` that is more than a reference to another key."""
    return (
        f"{key}: {text!r} is refused: only plain references such as ${{data.max_length}} are read, and no "
        f"functions such as ${{oc.env:NAME}}: the resolved configuration is written to disk ({place})."
    )


def _remove(body: dict[str, Any], key: KeyPath) -> None:
    """Take a key out; of a list, the whole list."""
    node = body
    for part in key:
        if not isinstance(node.get(part), dict):
            node.pop(part, None)
            return
        node = node[part]


def _read_defaults(document: Document, faults: Faults) -> None:
    entries = document.body.pop("defaults", [])
    if not isinstance(entries, list):
        faults.add(f"defaults: must be a list, such as [base, _self_] ({document.place(('defaults',))}).")
        return
    is_base = document.path.resolve() == (conf_dir() / "base.yaml").resolve()
    for index, entry in enumerate(entries):
        place = document.place(("defaults", str(index)))
        if entry == "_self_":
            if index != len(entries) - 1:
                faults.add(f"defaults: `_self_` goes last, so that the file's own settings win ({place}).")
        elif isinstance(entry, str):
            parent = _find_parent(entry, document, place, faults)
            document.parents.extend([parent] if parent else [])
        elif isinstance(entry, dict) and len(entry) == 1:
            (key, choice), *_ = entry.items()
            _read_pick(document, str(key), choice, place, is_base, faults)
            group = str(key).removeprefix("override ").strip()
            document.lines.setdefault((group, "name"), document.lines["defaults", str(index)])
        else:
            faults.add(
                f"defaults: {entry!r} is neither a recipe's name nor `override GROUP: CHOICE` ({place})."
            )


def _read_pick(document: Document, key: str, choice: Any, place: str, is_base: bool, faults: Faults) -> None:
    group = key.removeprefix("override ").strip()
    if group not in CHOICES:
        faults.add(f"defaults: '{group}' is not a group.{nearest(group, CHOICES)} ({place}).", (group,))
    elif not is_base and not key.startswith("override "):
        faults.add(
            f"defaults: `{key}: {choice}` must be written `override {group}: {choice}` ({place}).", (group,)
        )
    elif not is_choice(group, choice):
        faults.add(choice_fault(group, choice, place), (group,))
    elif document.picks.setdefault(group, choice) != choice:
        faults.add(
            f"defaults: `override {group}: {choice}` contradicts `override {group}: {document.picks[group]}` "
            f"above it; keep one ({place}).",
            (group,),
        )


def is_choice(group: str, value: object) -> bool:
    """Whether the group has this choice."""
    return isinstance(value, str) and value in CHOICES[group]


def choice_fault(group: str, choice: object, place: str) -> str:
    """The message for a choice that a group does not have."""
    names = list(CHOICES[group])
    have = f"{group} can be {either(names)}"
    return (
        f"{group}={choice}: this version has no such choice; {have}.{nearest(str(choice), names)} ({place})"
    )


def _find_parent(name: str, document: Document, place: str, faults: Faults) -> Path | None:
    for candidate in _parent_candidates(name, document):
        if _is_file(candidate):
            return candidate
    known = [known for known, _ in recipes()]
    faults.add(
        f"defaults: there is no recipe '{name}' to build on.{nearest(name, ['base', *known])} ({place})"
    )
    return None


def _parent_candidates(name: str, document: Document) -> Iterator[Path]:
    if name == "base":
        yield conf_dir() / "base.yaml"
    folders = [document.path.parent] if "/" in name else [recipes_dir(), document.path.parent]
    for folder in folders:
        for suffix in ("", *_SUFFIXES):
            candidate = folder / f"{name}{suffix}"
            if candidate.suffix in _SUFFIXES:
                yield candidate


def _read_name(document: Document, group: str, faults: Faults) -> None:
    """Move `schedule: {name: linear}` to the picks, where `override schedule: linear` already is."""
    if group not in document.body:
        return
    settings = document.body[group]
    if not isinstance(settings, dict):
        cure = (
            f"under `defaults` write `- override {group}: {settings}`"
            if is_choice(group, settings)
            else "indent them"
        )
        place = document.place((group,))
        faults.add(
            f"{group}: expected the settings of the group, got {settings!r}; {cure} ({place}).", (group,)
        )
        del document.body[group]
        return
    if "name" not in settings:
        return
    name, place = settings.pop("name"), document.place((group, "name"))
    if not is_choice(group, name):
        faults.add(choice_fault(group, name, place), (group,))
    elif document.picks.setdefault(group, name) != name:
        faults.add(
            f"{group}.name: '{name}' contradicts `override {group}: {document.picks[group]}` ({place}).",
            (group,),
        )
