"""`key=value` arguments, read with Hydra's grammar: `optim.lr=1e-4`, `data.train=[a,b]`, `schedule=linear`.

Any key of the schema can be set, whether a file sets it or not, so `+key=value` means the same as
`key=value`; `~key` goes back to the default. A value that Hydra's grammar cannot read, such as a path with
Chinese letters, brackets or `=`, is taken as it stands; so are the items of a list of such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from glm_train.config.documents import choice_fault, is_choice, reference_fault
from glm_train.config.faults import Faults, KeyPath, dotted, either
from glm_train.config.schema import CHOICES
from glm_train.config.yaml_nodes import is_plain_reference
from glm_train.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_ASSIGNMENT = re.compile(r"(\+\+|\+|)([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
_STRUCTURED = re.compile(r"\s*([\[{'\"]|[A-Za-z_]\w*\(|.*,)", re.DOTALL)
_FORM = re.compile(r"[+]{0,2}[A-Za-z_][^=]*=|~[A-Za-z_]")
_PLAIN_LIST = re.compile(r"\[([^\[\]{}'\"]+)\]")
_SECRET = re.compile(r"api_?key|secret|password|passwd|(access|auth|hf)_?token", re.IGNORECASE)
_LONGEST = 300  # characters of an argument in a message
_DEEPEST = 50  # brackets in brackets; Hydra's parser calls itself for each


@dataclass(frozen=True)
class Setting:
    """One value from the command line."""

    argument: str  # as the user wrote it
    path: KeyPath
    value: Any
    text: str | None = None  # the value as written; None when it was quoted or is not a scalar
    removes: bool = False

    @property
    def shown(self) -> str:
        """The argument. A value that looks like a secret is not repeated, nor all of one that fills a screen."""
        key, _, _ = self.argument.partition("=")
        whole = self.argument if len(self.argument) <= _LONGEST else f"{self.argument[:_LONGEST]}..."
        return f"{key}=***" if _SECRET.search(key) else whole

    @property
    def place(self) -> str:
        """Where the value came from."""
        return f"{self.shown} on the command line"


@dataclass
class CommandLine:
    """The overrides of one run."""

    settings: list[Setting] = field(default_factory=list)
    picks: dict[str, str] = field(default_factory=dict)  # group -> choice
    chosen: dict[str, Setting] = field(default_factory=dict)  # group -> where it was chosen


def parse_overrides(arguments: Sequence[str], faults: Faults) -> CommandLine:
    """Read the overrides of a single run. What cannot be read is added to `faults`."""
    command = CommandLine()
    for argument in arguments:
        try:
            override = parse_override(argument)
        except ConfigError as error:
            faults.add(str(error))
            continue
        setting = _setting(argument, override, faults)
        if setting is not None:
            _sort_in(setting, command, faults)
    return command


def parse_override(argument: str) -> Override | Setting:
    """One argument, by Hydra's grammar, or else as plain text.

    Raises:
        ConfigError: it is not of the form `key=value`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if not _FORM.match(argument):
        raise ConfigError(
            f"`{argument}` on the command line is not of the form key=value, such as optim.lr=1e-4."
        )
    if _depth(argument) > _DEEPEST:
        raise ConfigError(f"`{argument[:40]}...` on the command line is nested too deep.")
    try:
        return OverridesParser.create().parse_override(argument)
    except (HydraException, ValueError):
        pass
    assignment = _ASSIGNMENT.fullmatch(argument)
    if assignment:
        path, text = tuple(assignment[2].split(".")), assignment[3].strip()
        if not _STRUCTURED.match(text):
            return Setting(argument, path, text, text)
        if plain_list := _PLAIN_LIST.fullmatch(text):
            return Setting(argument, path, [item.strip() for item in plain_list[1].split(",")])
    key = argument.partition("=")[0]
    raise ConfigError(
        f"`{argument}` on the command line cannot be read. Quote a text with signs in it: '{key}=\"...\"'."
    )


def _depth(text: str) -> int:
    """How many brackets are open at once, at most."""
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _setting(argument: str, override: Override | Setting, faults: Faults) -> Setting | None:
    if isinstance(override, Setting):
        return override
    from hydra.core.override_parser.types import QuotedString

    path = tuple(override.key_or_group.replace("/", ".").split("."))
    if override.package is not None:
        faults.add(f"`{argument}` on the command line: packages (@) are not read; write key=value.")
    elif override.is_sweep_override():
        cure = (
            f"add -m to run `fit` with each; a list is {dotted(path)}=[a,b]; a text with commas needs quotes"
        )
        faults.add(f"`{argument}` on the command line holds several values; {cure}.", path)
    elif override.is_delete():
        return Setting(argument, path, None, removes=True)
    else:
        value = override.value()
        is_word = not isinstance(value, (list, dict)) and not isinstance(override._value, QuotedString)
        return Setting(argument, path, value, override.get_value_string() if is_word else None)
    return None


def _sort_in(setting: Setting, command: CommandLine, faults: Faults) -> None:
    """A choice of a group goes to the picks, a value to the settings."""
    group = setting.path[0]
    is_name = len(setting.path) == 2 and setting.path[1] == "name"
    if group in CHOICES and (len(setting.path) == 1 or is_name) and not isinstance(setting.value, dict):
        if setting.removes:
            faults.add(
                f"{group}: a group cannot be taken away; choose {either(CHOICES[group])} ({setting.place})."
            )
        elif not is_choice(group, setting.value):
            faults.add(choice_fault(group, setting.text or setting.value, setting.place), (group,))
        else:
            command.picks[group] = setting.value
            command.chosen[group] = replace(setting, path=(group, "name"))
        return
    bad = first_bad_reference(setting.value)
    if bad is not None:
        faults.add(reference_fault(dotted(setting.path), bad, setting.place), setting.path)
        return
    command.settings.append(setting)


def first_bad_reference(value: Any) -> str | None:
    """The first text in a value whose `${...}` is more than a reference to a key."""
    if isinstance(value, str):
        return None if is_plain_reference(value) else value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((bad for item in items if (bad := first_bad_reference(item)) is not None), None)
