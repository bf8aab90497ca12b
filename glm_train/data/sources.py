"""What `data.train` and `data.validation` may name, and the files that it means.

    chats.jsonl                a data file
    chats.jsonl:2              with a weight: each of its examples stands twice in an epoch
    saved/                     a folder that `datasets` saved; of several splits, the one that is asked for
    saved/:test   saved/:test:0.5
    owner/name                 a data set on the Hugging Face hub
    owner/name:train_sft       one of its splits
    owner/name:config/train    a split of one of its configurations

What exists under the whole name is always that file or folder, whatever colons are in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm_train.data.hub_data import download
from glm_train.data.records import check_file
from glm_train.data.source_names import WEIGHT_RULE, exists, is_usable, split_weight
from glm_train.data.streamed import check_streamable
from glm_train.errors import DataError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_FILE_NAME = re.compile(r"\.[A-Za-z]{2,7}\d?$")
_SPLIT = re.compile(r"\w+([.-]\w+)*")
_MAX_STATE_BYTES = 1 << 24


@dataclass(frozen=True)
class Source:
    """One name, as it was written, with the files that it stands for and their weight."""

    name: str
    files: tuple[Path, ...]
    weight: float = 1.0


def find_sources(
    names: Sequence[str], *, split: str, streaming: bool = False, any_suffix: bool = False
) -> list[Source]:
    """The sources that `names` mean, every file of them checked to be there and of a known format.

    Args:
        names: as `data.train` has them.
        split: the split to take of a data set that has several, where the name names none.
        streaming: whether records are to be read one by one, which only JSON Lines can do.
        any_suffix: whether files are text whatever their names say.

    Raises:
        DataError: all that is wrong with the names, a line each.
    """
    sources: list[Source] = []
    faults: list[str] = []
    for name in names:
        try:
            if streaming:
                _refuse_data_sets(name)
            source = find_source(name, split=split)
            for file in source.files:
                check_file(file, any_suffix=any_suffix)
                if streaming:
                    check_streamable(file)
            sources.append(source)
        except DataError as error:
            faults.append(str(error))
    faults += _named_twice(sources)
    if faults:
        raise DataError("\n".join(faults))
    return sources


def _refuse_data_sets(name: str) -> None:
    """Refuse what has no JSON Lines before it is fetched."""
    path = split_weight(name)[0]
    base = path if exists(path) or ":" not in path else path.rpartition(":")[0]
    here = exists(base)
    if (here and Path(base).is_dir()) or (not here and _is_hub_id(path.partition(":")[0])):
        kind = "a folder" if here else "a data set of the Hugging Face hub"
        raise DataError(
            f"{name}: data.streaming reads JSON Lines, and this is {kind}. Name its .jsonl files, or leave"
            " data.streaming out."
        )


def files_of(sources: Sequence[Source]) -> list[Path]:
    """All files, in the order in which they are named."""
    return [file for source in sources for file in source.files]


def find_source(name: str, *, split: str) -> Source:
    """The source that one name means. See `find_sources`."""
    path, weight = split_weight(name)
    if weight is None:
        weight = 1.0
    elif not is_usable(weight):
        raise DataError(f"{name}: {WEIGHT_RULE}, got {weight:g}. Leave the file out to train without it.")
    return Source(name, tuple(_files(path, split)), weight)


def _files(name: str, split: str) -> list[Path]:
    path = Path(name)
    if exists(name):
        return _dataset_files(path, split) if path.is_dir() else [path]
    head, colon, tail = name.rpartition(":")
    folder = Path(head)
    if colon and exists(head):
        if folder.is_dir():
            return _dataset_files(folder, _split_name(name, tail), asked=True)
        raise DataError(
            f"{name}: no such file. {head!r} is one, but {tail!r} is no weight: write a number after the colon."
        )
    hub_id, colon, tail = name.partition(":")
    if _is_hub_id(hub_id):
        config, _, chosen = tail.rpartition("/") if colon else ("", "", split)
        return download(hub_id, config or None, _split_name(name, chosen))
    return [path]  # a missing file, for the check of files to say


def _is_hub_id(name: str) -> bool:
    """Whether `owner/name` can only be meant for the hub: no folder `owner` here, and no file's suffix."""
    owner = name.partition("/")[0]
    return _HUB_ID.fullmatch(name) is not None and not _FILE_NAME.search(name) and not exists(owner)


def _split_name(name: str, split: str) -> str:
    if not _SPLIT.fullmatch(split):
        raise DataError(f"{name}: {split!r} is not the name of a split. Write one, such as 'train', or none.")
    return split


def _dataset_files(folder: Path, split: str, *, asked: bool = False) -> list[Path]:
    """The Arrow files of a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote."""
    if (listing := folder / "dataset_dict.json").is_file():
        splits = _read_json(listing, "splits", str)
        if split not in splits:
            example = f"{folder}:{splits[0]}" if splits else f"{folder}:train"
            raise DataError(
                f"{folder}: it has no split {split!r}, only {', '.join(splits) or 'none'}."
                f" Name one of them: {example}."
            )
        return _shards(folder, folder / split)
    if (folder / "state.json").is_file():
        if asked:
            raise DataError(f"{folder}: it holds a single data set, without splits. Leave out ':{split}'.")
        return _shards(folder, folder)
    check_file(folder)  # says that it is a folder, and names a file in it
    raise AssertionError("a folder passed the check of files")


def _shards(root: Path, folder: Path) -> list[Path]:
    """The files that `state.json` lists. It is data: no name may lead out of the folder."""
    names = [entry.get("filename") for entry in _read_json(folder / "state.json", "_data_files", dict)]
    if not names:
        raise DataError(f"{folder}: state.json lists no data file. Save the data set again.")
    inside = root.resolve()
    for name in names:
        plain = isinstance(name, str) and Path(name).name == name and name.endswith(".arrow")
        if not plain or not (folder / name).resolve().is_relative_to(inside):
            raise DataError(
                f"{folder}: state.json lists {name!r}, which is not an Arrow file in this folder."
                " Save the data set again, with save_to_disk."
            )
    return [folder / name for name in names]


def _read_json(path: Path, key: str, kind: type) -> list[Any]:
    """The list under `key` of one of the small files that describe a data set."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_STATE_BYTES))
        listed = value[key]
        if not isinstance(listed, list) or not all(isinstance(item, kind) for item in listed):
            raise TypeError
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        raise DataError(
            f"{path}: it has no readable list {key!r}, as save_to_disk writes it. Save the data set again."
        ) from None
    return listed


def _named_twice(sources: Sequence[Source]) -> list[str]:
    first: dict[Path, str] = {}
    faults = []
    for source in sources:
        for file in source.files:
            other = first.setdefault(file.resolve(), source.name)
            if other is not source.name:
                cure = f"Name it once, with a weight: {file}:2."
                faults.append(f"{source.name}: the file is named twice, first by {other!r}. {cure}")
                break
    return faults
