"""The faults of one configuration, gathered so that the user sees all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from glm_train.errors import ConfigError

KeyPath = tuple[str, ...]


def dotted(path: KeyPath) -> str:
    """`('optim', 'lr')` as users write it: `optim.lr`."""
    return ".".join(path)


@dataclass
class Faults:
    """A list of one-line faults, and the keys that are already spoken for."""

    lines: list[str] = field(default_factory=list)
    keys: set[KeyPath] = field(default_factory=set)

    def add(self, line: str, key: KeyPath | None = None) -> None:
        """Note a fault. Nothing more is said about `key` and what lies under it."""
        if line not in self.lines:
            self.lines.append(line)
        if key is not None:
            self.keys.add(key)

    def covers(self, path: KeyPath) -> bool:
        """Whether a fault was noted for this key, for one above it or for one below it."""
        return any(path[: len(key)] == key or key[: len(path)] == path for key in self.keys)

    def raise_any(self, subject: str) -> None:
        """Raise the faults as one `ConfigError`: a single one as it is, several under a heading."""
        if len(self.lines) == 1:
            raise ConfigError(self.lines[0])
        if self.lines:
            raise ConfigError(f"{len(self.lines)} faults in {subject}:\n" + "\n".join(self.lines))


def either(names: Iterable[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
