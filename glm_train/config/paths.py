"""Paths as users write them, and where the shipped `conf/` and `recipes/` are: in the package or beside it."""

from __future__ import annotations

from pathlib import Path

from glm_train.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent


def conf_dir() -> Path:
    """The folder of `base.yaml` and of the groups."""
    return _shipped("conf")


def recipes_dir() -> Path:
    """The folder of the recipes that come with the package."""
    return _shipped("recipes")


def expand_home(text: str | Path) -> Path:
    """The path with a leading `~` or `~user` replaced by that home folder.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0]
        raise ConfigError(
            f"{text}: {user} has no home folder; write the whole path, or ./{user} for a folder of that name."
        ) from None


def _shipped(name: str) -> Path:
    for folder in (_PACKAGE / f"_{name}", _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"glm-train is installed without its '{name}' folder (looked in {_PACKAGE / f'_{name}'} and "
        f"{_PACKAGE.parent / name}). Install it again."
    )
