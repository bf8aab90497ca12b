"""Recipe + command line -> `RunConfig`. Hydra composes; the schema decides what is right.

Steps: read the recipe and what it builds on; read the overrides; let Hydra lay the files and the chosen
groups over one another; lay the command line on top; resolve `${...}`; build the dataclasses. Faults are
gathered all the way, so that the user sees every one of them at once, each with its file and line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from glm_train.config.documents import Document, find_recipe, read_chain, recipes, shown_path
from glm_train.config.faults import Faults, KeyPath, dotted
from glm_train.config.overrides import CommandLine, parse_overrides
from glm_train.config.paths import conf_dir
from glm_train.config.schema import RunConfig
from glm_train.config.validate import Origin, build_run_config, known_defaults, take_unknown_keys
from glm_train.errors import ConfigError

__all__ = ["compose", "recipe_label", "recipes"]


def compose(recipe: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of a run.

    Args:
        recipe: the name of a shipped recipe, or the path of a YAML file.
        overrides: `key=value` arguments.

    Raises:
        ConfigError: everything that is wrong with it, one line each.
    """
    faults = Faults()
    documents = read_chain(find_recipe(recipe), faults)
    command = parse_overrides(overrides, faults)
    choices = _choices(documents, command)
    origin = Origin(documents, command)

    tree = _lay_over(_merge_files(documents, choices), command)
    take_unknown_keys(tree, choices, origin, faults)
    tree = _update(known_defaults(choices), tree)
    tree = _resolve(tree, origin, faults)
    config = build_run_config(tree, choices, origin, faults)
    faults.raise_any(f"the configuration of '{recipe}'")
    assert config is not None  # no fault means that every part was built
    return config


def recipe_label(recipe: str) -> str:
    """The recipe's name as a part of a folder's name: `./my runs/mine.yaml` -> `mine`."""
    return find_recipe(recipe).stem


def _choices(documents: list[Document], command: CommandLine) -> dict[str, str]:
    """The choice for every group: the command line before the recipe, the recipe before what it builds on."""
    choices: dict[str, str] = {}
    for picks in (*(document.picks for document in documents), command.picks):
        choices.update(picks)
    return choices


def _merge_files(documents: list[Document], choices: dict[str, str]) -> dict[str, Any]:
    """What Hydra makes of the files: `base`, the chosen groups, then the recipes, the user's last."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    bodies = json.dumps([document.body for document in documents[1:]])
    try:
        return json.loads(_merged_by_hydra(bodies, tuple(choices.items())))
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ConfigError(f"{shown_path(documents[-1].path)}: cannot be composed: {reason}.") from error


@lru_cache(maxsize=16)
def _merged_by_hydra(bodies: str, choices: tuple[tuple[str, str], ...]) -> str:
    """JSON in, JSON out, so that the jobs of a sweep, which share their files, pay for Hydra once."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store = ConfigStore.instance()
    names = []
    for index, body in enumerate(json.loads(bodies)):
        names.append(f"glm_train_recipe_{index}")
        store.store(name=names[-1], node=body)
    picks = [{f"override {group}": choice} for group, choice in choices]
    store.store(name="glm_train_run", node={"defaults": ["base", *names, *picks]})
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3", job_name="glm-train"):
        merged = hydra.compose("glm_train_run")
    return json.dumps(OmegaConf.to_container(merged, resolve=False))


def _lay_over(tree: dict[str, Any], command: CommandLine) -> dict[str, Any]:
    """The tree with the values of the command line put in."""
    for setting in command.settings:
        node = tree
        for part in setting.path[:-1]:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        last = setting.path[-1]
        if setting.removes:
            node.pop(last, None)
        elif isinstance(setting.value, dict) and isinstance(node.get(last), dict):
            node[last] = _update(node[last], setting.value)
        else:
            node[last] = setting.value
    return tree


def _update(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _update(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _resolve(tree: dict[str, Any], origin: Origin, faults: Faults) -> dict[str, Any]:
    """The tree with every `${key}` replaced by the value of that key."""
    from omegaconf import OmegaConf

    return _resolved(tree, OmegaConf.create(tree), (), origin, faults)


def _resolved(value: Any, node: Any, path: KeyPath, origin: Origin, faults: Faults) -> Any:
    """`value` is the plain form of `node`, an OmegaConf container."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value))
    resolved: dict[Any, Any] = {}
    for key in keys:
        item, below = value[key], (*path, str(key))
        if isinstance(item, (dict, list)):
            resolved[key] = _resolved(item, node[key], below, origin, faults)
        elif isinstance(item, str) and "${" in item:
            resolved[key] = _referred(item, node, key, below, origin, faults)
        else:
            resolved[key] = item
    return resolved if isinstance(value, dict) else list(resolved.values())


def _referred(text: str, node: Any, key: Any, path: KeyPath, origin: Origin, faults: Faults) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

    try:
        found = node[key]
    except InterpolationToMissingValueError:
        faults.add(
            f"{dotted(path)}: {text} refers to a key that has no value yet ({origin.place(path)}).", path
        )
    except OmegaConfBaseException as error:
        reason = str(error).partition("\n")[0].rstrip(".").lower()
        faults.add(f"{dotted(path)}: {text} cannot be resolved: {reason} ({origin.place(path)}).", path)
    else:
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    return None
