"""Model folders that must be refused: made from a sound one, loaded in a process of their own, and watched.

The process loads folders through the public `from_pretrained`, each under a limit of 512 MiB of new memory and with
an alarm, and reports what was raised, the CPU time, the growth of the resident set, and every event that must not
happen (a pickle read, a process started, a file beside the folder opened).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MAX_SECONDS = 2.0
MAX_BYTES = 512 * 2**20
CANARY = "canary"  # what hostile code of the tests would create, beside the model folder
OUTSIDE = "outside"  # the folder beside the model folder that hostile indexes point to
Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Outcome:
    """What one load did. `error` is the exception's type, empty where the folder was loaded."""

    folder: Path
    error: str
    message: str
    seconds: float
    grown_bytes: int
    events: list[str]

    def assert_refused(self, reason: str) -> None:
        """For this reason, by a `CheckpointError` that names the folder or a file in it; cheap and harmless."""
        assert self.error == "CheckpointError", f"{self.error or 'loaded'}: {self.message}"
        assert str(self.folder) in self.message
        assert reason in self.message
        self.assert_harmless()

    def assert_loaded(self) -> None:
        assert self.error == "", f"{self.error}: {self.message}"
        self.assert_harmless()

    def assert_harmless(self) -> None:
        assert self.events == []
        assert not (self.folder.parent / CANARY).exists()
        assert self.seconds < MAX_SECONDS
        assert self.grown_bytes < MAX_BYTES


class WatchedProcess:
    """Loads one folder after the other; started once, because it imports torch."""

    def __init__(self, sound_folder: Path) -> None:
        """`sound_folder` is loaded first and must load, so that no later one is charged for imports."""
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("refusals_child.py")),
                str(MAX_BYTES),
                OUTSIDE,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert self.load(sound_folder).error == ""

    def load(self, folder: Path) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(str(folder))}\n")
        self._process.stdin.flush()
        return Outcome(folder, **json.loads(self._process.stdout.readline()))

    def load_spoilt(self, base: Path, spoil: Spoil, root: Path) -> Outcome:
        """Copy the folder `base` to `root`/model, spoil the copy, and load it."""
        folder = root / "model"
        shutil.copytree(base, folder)
        spoil(folder)
        return self.load(folder)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
