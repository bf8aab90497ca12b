"""The outputs of a head for token classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def listed(names: tuple[str, ...]) -> str:
    """Names in one line, the first dozen of them."""
    return f"{len(names)}: {', '.join(names[:12])}" + (", ..." if len(names) > 12 else "")


@dataclass(frozen=True)
class TokenLabels:
    """The classes of token classification, in order."""

    names: tuple[str, ...]
    found: bool = False  # in the data; otherwise their order says what tags that are numbers mean

    def __str__(self) -> str:
        return listed(self.names)

    def config_changes(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: index for index, name in enumerate(self.names)},
        }
