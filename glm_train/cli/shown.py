"""What several commands print."""

from __future__ import annotations

import sys


def warn(text: str) -> None:
    print(f"glm-train: warning: {text}", file=sys.stderr)


def peak_memory() -> int:
    """The most memory that this process has had, in bytes, mapped files included."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
