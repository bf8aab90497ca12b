"""Data files as a stream of records. Every fault names its file and line; memory stays constant.

A file format is one function `path -> records and faults` in `READERS`; `SUFFIXES` says which one a file
name means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from glm_train.data.readers.columns import read_arrow, read_parquet
from glm_train.data.readers.conll import read_conll
from glm_train.data.readers.delimited import read_csv, read_tsv
from glm_train.data.readers.json_array import read_json
from glm_train.data.readers.json_lines import BOM, read_json_lines
from glm_train.data.readers.record import Fault, Item, Record
from glm_train.errors import DataError, nearest

__all__ = ["READERS", "SUFFIXES", "Fault", "Record", "check_file", "format_of", "read_items", "read_records"]

READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "conll": read_conll,
}
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    **dict.fromkeys((".conll", ".conllu", ".bio", ".iob", ".iob2", ".iobes"), "conll"),
}
_TEXT = ("jsonl", "json", "csv", "tsv", "conll")
_PACKED = {".gz": "gunzip", ".zst": "unzstd", ".bz2": "bunzip2", ".xz": "unxz", ".zip": "unzip"}
_MAGIC = {
    b"\x1f\x8b": "gzip-compressed, and compressed files are not read. Unpack it, with gunzip",
    b"\x28\xb5\x2f\xfd": "zstd-compressed, and compressed files are not read. Unpack it, with unzstd",
    b"BZh": "bzip2-compressed, and compressed files are not read. Unpack it, with bunzip2",
    b"PK\x03\x04": "a zip archive or a spreadsheet. Unpack it, or export the sheet as CSV",
    b"PAR1": "a Parquet file. Name it .parquet",
    b"ARROW1": "an Arrow file. Name it .arrow",
    b"\xff\xfe": "UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "UTF-16 text. Save it as UTF-8",
}


def read_records(path: str | Path) -> Iterator[Record]:
    """The records of one file, in file order.

    The file itself is checked before this returns; its records are checked as they are read.

    Raises:
        DataError: the file cannot be read or its format is not known; and, while iterating, the first
            record that is none, as `path:line: what is wrong`.
    """
    return _strict(read_items(path))


def read_items(path: str | Path, read: Callable[[Path], Iterator[Item]] | None = None) -> Iterator[Item]:
    """Like `read_records`, with a `Fault` in the place of each record that cannot be read.

    `read` takes the place of the reader that the file's suffix chooses.

    Raises:
        DataError: the file cannot be read; and, while iterating, a fault behind which nothing can be read.
    """
    path = Path(path)
    check_file(path, any_suffix=read is not None)
    return _readable(path, (read or READERS[format_of(path)])(path))


def _readable(path: Path, items: Iterator[Item]) -> Iterator[Item]:
    """The same items; a disk that fails in the middle of the file is said with its name."""
    try:
        yield from items
    except OSError as error:
        raise DataError(f"{path}: cannot be read to its end: {error.strerror or error}.") from None


def _strict(items: Iterator[Item]) -> Iterator[Record]:
    for item in items:
        if isinstance(item, Fault):
            raise item.placed()
        yield item


def check_file(path: Path, *, any_suffix: bool = False) -> None:
    """Refuse what cannot be opened as a file of a known format, with the cure. Reads its first bytes only.

    With `any_suffix` a suffix that is not known is that of a text.
    """
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)[:3]
            if not inside:
                raise DataError(
                    f"{path}: this is a folder without data files. Name a file, or a folder of save_to_disk's."
                )
            raise DataError(
                f"{path}: this is a folder. Name the data file, for example {str(path / inside[0])!r}."
            )
        if not path.exists():
            raise DataError(f"{path}: no such file.{_nearest_file(path)}")
        if not path.is_file():
            raise DataError(f"{path}: this is not a regular file. Name a data file.")
        with path.open("rb") as file:
            start = file.read(16)
    except PermissionError:
        raise DataError(f"{path}: no permission to read it. Check the owner and mode of the file.") from None
    except (OSError, ValueError) as error:  # the second for a name with a NUL
        what = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {what}.") from None
    if start in (b"", BOM):
        raise DataError(f"{path}: the file is empty. Write one record a line.")
    kind = SUFFIXES.get(path.suffix.lower(), "conll") if any_suffix else format_of(path)
    for magic, what in _MAGIC.items() if kind in _TEXT else ():
        if start.startswith(magic):
            raise DataError(f"{path}: the file is {what}.")


def format_of(path: Path) -> str:
    """The name in `READERS` of the format that a file's name means."""
    if (suffix := path.suffix.lower()) in SUFFIXES:
        return SUFFIXES[suffix]
    if suffix in _PACKED:
        raise DataError(f"{path}: compressed files are not read. Unpack it, with {_PACKED[suffix]}.")
    shown = f"files that end in {suffix!r}" if suffix else "files without a suffix"
    raise DataError(f"{path}: {shown} are not read. Use one of: {', '.join(sorted(SUFFIXES))}.")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {str(path.parent)!r} does not exist either."
    return nearest(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_file()))
