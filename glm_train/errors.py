"""The errors a user can meet. Each message says what is wrong, where, and the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class GlmTrainError(Exception):
    """A fault in the user's input. The command line prints it without a traceback."""

    exit_code = 2


class ConfigError(GlmTrainError):
    """A configuration that cannot be run. May carry several faults, one a line."""


class DataError(GlmTrainError):
    """A data file or record that cannot be trained on."""

    def at(self, path: str | Path, line: int | None = None) -> DataError:
        """The same error with its place in front: `path:line: message`."""
        place = f"{path}:{line}" if line is not None else f"{path}"
        return type(self)(f"{place}: {self}")


class CheckpointError(GlmTrainError):
    """A model folder or a saved run state that cannot be loaded or written."""


class FailedElsewhere(CheckpointError):
    """What another process of the run could not do, where this one waits for it: that one reports it."""


class CheckFailed(GlmTrainError):
    """A check that the user asked for, or that every run makes, said no."""

    exit_code = 3


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: ` Did you mean 'lr'?`, or an empty string when nothing is near."""
    matches = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(m) for m in matches)}?" if matches else ""
