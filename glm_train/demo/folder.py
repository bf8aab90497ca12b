"""Builds the demo folder: everything in a hidden sibling first, then one rename, so it is there whole or not at all."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import glm_train
from glm_train.config.paths import expand_home
from glm_train.demo import chats, entities, tiny_glm
from glm_train.demo.readme import readme
from glm_train.demo.sources import CHATS, ENTITIES
from glm_train.errors import ConfigError

MANIFEST = "demo.json"
MANIFEST_FORMAT = 1


@dataclass
class Contents:
    """What a demo folder holds, for the summary and the README."""

    parameters: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # data file -> records in it
    languages: dict[str, int] = field(default_factory=dict)  # language -> chats
    labels: dict[str, int] = field(default_factory=dict)  # topic -> questions
    tags: dict[str, int] = field(default_factory=dict)  # entity label -> entities
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> how many


def make_demo(directory: Path, seed: int = 0) -> tuple[Contents, bool]:
    """Make the demo in `directory`, or find it there. Returns its contents and whether it was made now.

    The same packages and the same seed give the same bytes. `seed` draws the weights of the tiny model; the data
    does not depend on it. Raises `ConfigError`, with nothing touched, when `directory` is something else already,
    when it cannot be written, or when a data package is missing.
    """
    try:
        directory = expand_home(directory).resolve()
    except (RuntimeError, ValueError):  # a circle of links; a NUL character
        raise ConfigError(f"{str(directory)!r}: no folder can be there; choose another") from None
    if _is_occupied(directory):
        return _found(directory, seed), False
    if directory == Path.cwd():
        raise ConfigError(f"{directory}: is the current folder; name a new one inside it, such as demo")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".partial", dir=directory.parent))
    except OSError as error:
        raise _cannot_write(directory, error) from None
    try:
        contents = _write(work, seed)
        _allow_reading(work)
        work.replace(directory)  # also takes the place of an empty folder
    except OSError as error:
        if _is_occupied(directory):  # another demo was faster
            return _found(directory, seed), False
        raise _cannot_write(directory, error) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return contents, True


def _is_occupied(directory: Path) -> bool:
    """Whether anything but an empty folder stands there."""
    try:
        return directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise _cannot_write(directory, error) from None


def _cannot_write(directory: Path, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(f"{directory}: the demo cannot be written there ({reason}); choose another folder")


def _found(directory: Path, seed: int) -> Contents:
    """The contents of the finished demo in `directory`. Raises `ConfigError` when it is anything else."""
    cure = "choose a folder that is new or empty"
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is a file, not a folder; {cure}")
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        made_by = manifest["glm_train"], manifest["format"]
        if made_by != (glm_train.__version__, MANIFEST_FORMAT):
            raise ConfigError(
                f"{directory}: holds the demo of glm-train {made_by[0]}, this is {glm_train.__version__}; "
                f"delete that folder, or {cure}"
            )
        old_seed, hashes, contents = manifest["seed"], manifest["files"], Contents(**manifest["contents"])
        changed = sorted(name for name, expected in hashes.items() if _hash(directory / name) != expected)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(
            f"{directory}: holds other files already, and nothing is written over; {cure}"
        ) from None
    if old_seed != seed:
        raise ConfigError(f"{directory}: holds the demo of --seed {old_seed}, not {seed}; {cure}")
    if changed:
        raise ConfigError(
            f"{directory}: holds a demo whose files were changed since ({', '.join(changed)}), "
            f"and nothing is written over; {cure}"
        )
    return contents


def _hash(path: Path) -> str | None:
    """The file's SHA-256 in hex; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _write(folder: Path, seed: int) -> Contents:
    """Write every file of the demo into the empty `folder`, the manifest last."""
    contents = Contents()
    dropped: Counter[str] = Counter()
    corpus = chats.read_corpus(dropped)
    texts = _write_chats(folder, corpus, contents, dropped)
    _write_topics(folder, corpus, contents)
    texts += _write_entities(folder, contents, dropped)
    contents.dropped = dict(dropped.most_common())
    contents.parameters = tiny_glm.write_model(folder / "tiny-glm", texts, seed)
    (folder / "README.md").write_text(readme(contents, seed), encoding="utf-8")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    manifest: dict[str, Any] = {
        "format": MANIFEST_FORMAT,
        "glm_train": glm_train.__version__,
        "seed": seed,
        "sources": {source.distribution: source.version() for source in (CHATS, ENTITIES)},
        "contents": vars(contents),
        "files": {name: _hash(folder / name) for name in files},
    }
    (folder / MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return contents


def _write_chats(
    folder: Path, corpus: list[chats.Chat], contents: Contents, dropped: Counter[str]
) -> list[str]:
    """Write `chat/`; returns the training texts, from which the tokenizer learns."""
    kept = chats.select(corpus, dropped)
    contents.languages = dict(Counter(chat.language for chat in kept))
    train, validation = chats.split(kept)
    for name, part in (("train", train), ("validation", validation)):
        lines = [json.dumps(chat.record(), ensure_ascii=False) + "\n" for chat in part]
        _write_data(folder, f"chat/{name}.jsonl", "".join(lines), len(part), contents)
    return [message for chat in train for message in chat.messages]


def _write_topics(folder: Path, corpus: list[chats.Chat], contents: Contents) -> None:
    train, validation = chats.topics(corpus)
    contents.labels = dict(Counter(label for _, label in train + validation).most_common())
    for name, rows in (("train", train), ("validation", validation)):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows(rows)
        _write_data(folder, f"topics/{name}.csv", table.getvalue(), len(rows), contents)


def _write_entities(folder: Path, contents: Contents, dropped: Counter[str]) -> list[str]:
    """Write `entities/`; returns the training sentences as text."""
    sentences = entities.read_sentences(dropped)
    opened = Counter(tag[2:] for sentence in sentences for _, tag in sentence if tag.startswith("B-"))
    contents.tags = dict(opened.most_common())
    train, validation = entities.split(sentences)
    for name, part in (("train", train), ("validation", validation)):
        _write_data(folder, f"entities/{name}.conll", entities.conll(part), len(part), contents)
    return [entities.text(sentence) for sentence in train]


def _write_data(folder: Path, name: str, text: str, rows: int, contents: Contents) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode())  # bytes: no line ending is translated on any system
    contents.rows[name] = rows


def _allow_reading(folder: Path) -> None:
    """Give the folder the permissions that any new one has; a temporary folder and safetensors are stricter."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
