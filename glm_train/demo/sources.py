"""Where the demo's raw text lies: two small packages that the extra `[demo]` installs. Neither is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from glm_train.errors import ConfigError

INSTALL = 'pip install "glm-train[demo]"'


@dataclass(frozen=True)
class Source:
    """A package of data: its names, what its licence is, and where it comes from."""

    distribution: str
    package: str
    licence: str
    home: str
    holds: str

    def folder(self) -> Path:
        """The installed package's folder. Raises `ConfigError` with the install line when it is missing."""
        spec = find_spec(self.package)
        places = list(spec.submodule_search_locations or []) if spec else []
        if not places:
            raise ConfigError(
                f"glm-train demo reads the package {self.distribution!r}, which is missing: {INSTALL}"
            )
        return Path(places[0])

    def version(self) -> str:
        """The installed version, for the record in demo.json."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:  # the folder is on the path without its metadata
            return "unknown"


CHATS = Source(
    distribution="chatterbot-corpus",
    package="chatterbot_corpus",
    licence="BSD",
    home="https://github.com/gunthercox/chatterbot-corpus",
    holds="questions, answers and short conversations, written by its community",
)
ENTITIES = Source(
    distribution="hironsancorpus",
    package="hironsan",
    licence="MIT",
    home="https://github.com/Hironsan/hironsan_corpus",
    holds="Japanese news sentences with named entities marked",
)


def read_text(path: Path, source: Source) -> str:
    """The text of a file of `source`. Raises `ConfigError` when the installed package does not have it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the package {source.distribution!r} {source.version()} lacks this file or it cannot be read "
            f"({error}). Install it afresh: {INSTALL} --force-reinstall"
        ) from None


def read_yaml(path: Path, source: Source) -> Any:
    """A YAML file with every scalar as the text that stands there.

    YAML reads a bare `No` as False and `1963` as a number; both are answers here, so no scalar is interpreted.
    """
    try:
        yaml = import_module("yaml")
    except ModuleNotFoundError:
        raise ConfigError(f"glm-train demo reads YAML with 'pyyaml', which is missing: {INSTALL}") from None
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the C one where it was built: 10 times faster
    try:
        return yaml.load(read_text(path, source), Loader=loader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{path}: the package {source.distribution!r} has a file that is not YAML: {error}"
        ) from None
