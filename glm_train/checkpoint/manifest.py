"""The manifest of a saved run state: every file with its size and SHA-256, written last.

A folder with a manifest was written to its end; a folder that agrees with its manifest is what was written.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glm_train.checkpoint.disk import write_text
from glm_train.checkpoint.safetensors_file import MAX_HEADER_BYTES, WrittenFile, strict_json
from glm_train.errors import CheckpointError

MANIFEST_NAME = "manifest.json"
FORMAT = "glm-train run state"
VERSION = 1


def write_manifest(folder: Path, files: Mapping[str, WrittenFile]) -> None:
    """Write the manifest of `files` into `folder` and flush it to the disk. Raises OSError."""
    write_text(folder / MANIFEST_NAME, _text(files))


def verify(folder: Path) -> dict[str, WrittenFile]:
    """The files of a saved state, each of which has been read and found unchanged.

    Raises `CheckpointError` naming the first file that is missing, superfluous, or altered by a single bit.
    """
    try:
        files = _read_manifest(folder)
        _check_names(folder, files)
        for name, expected in files.items():
            found = _regular_size(folder / name)
            if found != expected.size:
                raise CheckpointError(f"{folder / name}: {found} bytes, {expected.size} were written")
        # The hash lets go of the interpreter lock, so that files are checked side by side.
        with ThreadPoolExecutor(max_workers=4) as pool:
            for name, digest in zip(files, pool.map(_sha256, (folder / name for name in files)), strict=True):
                if digest != files[name].sha256:
                    raise CheckpointError(
                        f"{folder / name}: the content is not what was written (SHA-256 differs)"
                    )
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
    return files


def is_complete(folder: Path) -> bool:
    """True where a readable manifest and files of the right sizes stand; their content is not read."""
    try:
        files = _read_manifest(folder)
        return all(_regular_size(folder / name) == expected.size for name, expected in files.items())
    except (OSError, CheckpointError):
        return False


def _text(files: Mapping[str, WrittenFile]) -> str:
    entries = {name: {"bytes": file.size, "sha256": file.sha256} for name, file in sorted(files.items())}
    return json.dumps({"files": entries, "format": FORMAT, "version": VERSION}, indent=2) + "\n"


def _read_manifest(folder: Path) -> dict[str, WrittenFile]:
    """The manifest's files. Its text must be exactly what we write, so no altered bit goes unseen."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no {MANIFEST_NAME}; the save was not finished, or this is no saved state"
        )
    if _regular_size(path) > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: too large to be a manifest")
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = strict_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a saved state of glm-train")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: version {content.get('version')!r}; this glm-train reads version {VERSION}. "
            "Resume with the glm-train that saved it."
        )
    try:
        files = {
            name: WrittenFile(entry["bytes"], entry["sha256"]) for name, entry in content["files"].items()
        }
        sound = text == _text(files) and all(type(file.size) is int for file in files.values())
    except (AttributeError, KeyError, TypeError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: damaged: not as it was written")
    return files


def _check_names(folder: Path, files: Mapping[str, WrittenFile]) -> None:
    present = {path.name for path in folder.iterdir()} - {MANIFEST_NAME}
    for name in sorted(set(files) - present):
        raise CheckpointError(f"{folder / name}: the file is missing")
    for name in sorted(present - set(files)):
        raise CheckpointError(
            f"{folder / name}: not in the manifest; a saved state holds only what was saved"
        )


def _regular_size(path: Path) -> int:
    """Size of a plain file. A link or a device is none: we write plain files only."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path}: not a regular file")
    return status.st_size


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
