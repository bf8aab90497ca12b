"""The command line: one thin file a command."""

from __future__ import annotations

import os
import shutil
import sys


def program() -> str:
    """How the user can type this command again: by its name, or by its path where it is not on PATH."""
    name = "glm-train"
    if shutil.which(name) or not sys.argv[0].endswith(name):
        return name
    path = os.path.relpath(sys.argv[0])
    return sys.argv[0] if path.startswith("..") else path
