"""A `RunConfig` as YAML, in the order of the schema. It is itself a recipe for the same `RunConfig`."""

from __future__ import annotations

import dataclasses
from typing import Any

import yaml

from glm_train.config.schema import RunConfig


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Plain nested values, lists for tuples, every key spelt out, a group's name before its settings."""
    return _plain(dataclasses.asdict(config))


def to_yaml(config: RunConfig, *, ascii_only: bool = False) -> str:
    """The text of `config.yaml` and of `glm-train show`: every key, in a fixed order.

    With `ascii_only`, other letters are written as YAML's escapes, which are read back as those letters.
    """
    values = to_dict(config)
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=not ascii_only, width=1000)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        name = {"name": value["name"]} if "name" in value else {}
        return {**name, **{key: _plain(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Writes floats as YAML 1.1 and 1.2 both read them, and no anchors for repeated lists."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _write_float(dumper: _Dumper, value: float) -> yaml.ScalarNode:
    text = repr(value)
    if "e" in text and "." not in text:
        text = text.replace("e", ".0e")  # 1e-05 would be read as a text
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _write_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Left to itself, PyYAML writes the line separators of Unicode raw, and reads them back as spaces.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(float, _write_float)
_Dumper.add_representer(str, _write_text)
