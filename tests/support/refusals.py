"""Model folders that must be refused: made from a sound one, loaded in a process of their own, and watched.

The process loads each folder through the public `from_pretrained`, under a limit of 512 MiB of new memory and with
an alarm, and reports what was raised, the CPU time, the growth of the resident set, and every event that must not
happen (a pickle read, a process started, a file beside the folder opened).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_SECONDS = 2.0
MAX_BYTES = 512 * 2**20
CANARY = "canary"  # what hostile code of the tests would create, beside the model folders
OUTSIDE = "outside"  # the folder beside the model folders that hostile indexes point to
Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """What one load did. `error` is the exception's type, empty where the folder was loaded."""

    folder: Path
    error: str
    message: str
    seconds: float
    grown_bytes: int
    events: list[str]


def outcomes(base: Path, spoils: Mapping[str, Spoil], root: Path) -> dict[str, Outcome]:
    """Copy the folder `base` once for each spoil, spoil the copy, and load all in one watched process; first `base`
    itself, which must load."""
    folders = {}
    for name, spoil in spoils.items():
        folders[name] = root / f"{len(folders):02d}"
        shutil.copytree(base, folders[name])
        spoil(folders[name])
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("refusals_child.py")), str(MAX_BYTES), OUTSIDE],
        input=json.dumps([str(folder) for folder in (base, *folders.values())]),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        name: Outcome(folder, **line) for (name, folder), line in zip(folders.items(), lines, strict=True)
    }


def assert_refused(outcome: Outcome, reason: str) -> None:
    """Refused for this reason, by a `CheckpointError` that names the folder or a file in it; cheap and harmless."""
    assert outcome.error == "CheckpointError", f"{outcome.error or 'loaded'}: {outcome.message}"
    assert str(outcome.folder) in outcome.message
    assert reason in outcome.message
    assert_harmless(outcome)


def assert_harmless(outcome: Outcome) -> None:
    assert outcome.events == []
    assert not (outcome.folder.parent / CANARY).exists()
    assert outcome.seconds < MAX_SECONDS
    assert outcome.grown_bytes < MAX_BYTES
