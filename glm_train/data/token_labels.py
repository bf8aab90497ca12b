"""The labels of data files for token classification: the types of their entities, and the scheme of their tags.

Each file is read once, before any of it is tokenised, and what was found is kept beside the prepared data under a hash
of the file's content: a second run, or a run with one file more, reads only what is new.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from glm_train.bar import Progress, silent
from glm_train.data.cache import cached_value, default_cache_dir, file_digest
from glm_train.data.readers.record import Fault
from glm_train.data.token_files import TokenReader
from glm_train.data.token_records import at_word, parse_tokens
from glm_train.errors import ConfigError, DataError, nearest
from glm_train.tagging import schemes
from glm_train.tagging.schemes import OUTSIDE, PLAIN, SCHEMES, Span, detect_scheme, label_names, read_tags

_TOLD = 1000  # records between two reports of progress


@dataclass(frozen=True)
class TagsFound:
    """What a file, or several, are labelled with.

    `types` counts the entities of each type (words of each class where the scheme is `plain`). `scheme` is a key of
    `tagging.schemes.SCHEMES`, or `plain`; empty where no tag says. `line` is the first that said it.
    """

    types: dict[str, int]
    scheme: str = ""
    line: int = 0
    records: int = 0
    fault: str = ""  # of the first record that was passed over

    @property
    def labels(self) -> list[str]:
        """The classes of a model for them: `O`, then B- and I- of each type; or the plain classes, sorted."""
        return sorted(self.types) if self.scheme == PLAIN else label_names(self.types)


def discover_tags(
    paths: Sequence[str | Path],
    *,
    reader: TokenReader | None = None,
    scheme: str = "auto",
    tag_names: Sequence[str] = (),
    on_error: str = "error",
    cache_dir: str | Path | None = None,
    progress: Progress = silent,
    may_be_empty: bool = False,
) -> TagsFound:
    """The entity types of all `paths`, and the one scheme of their tags.

    Args:
        reader: how the files are read; by default by their suffixes.
        scheme: `auto` finds it; else `iob1`, `iob2`, `iobes` or another of `tagging.schemes`, with which tags are read.
        tag_names: what tags that are numbers mean, from 0.
        on_error: "skip" passes over faulty records, as preparation does. Tags of no scheme are always an error.
        cache_dir: as for `prepare`.
        progress: is told how many records are read.
        may_be_empty: files without an entity are fine, as they are for evaluation.

    Raises:
        ConfigError: an unknown scheme.
        DataError: a file or record cannot be used (the first one, with file and line), the files follow different
            schemes, or they hold no entity.
    """
    reader = reader or TokenReader()
    scheme = scheme_name(scheme)
    root = Path(cache_dir) if cache_dir else default_cache_dir()
    done = 0
    found: list[tuple[Path, TagsFound]] = []
    for path in map(Path, paths):
        reader.check(path)
        state = path.stat()
        read = partial(_read_file, path, reader, scheme, tuple(tag_names), on_error == "skip")
        tags = cached_value(
            root,
            _key(path, reader, scheme, tag_names, on_error),
            partial(read, lambda n, before=done: progress("labels", before + n, 0)),
            lambda saved: TagsFound(**saved),
        )
        if (path.stat().st_size, path.stat().st_mtime_ns) != (state.st_size, state.st_mtime_ns):
            raise DataError(f"{path}: the file changed while it was read. Start again when it is complete.")
        found.append((path, tags))
        done += tags.records
    together = _together(found)
    if not together.types and not may_be_empty:
        names = ", ".join(map(str, paths))
        fault = next((tags.fault for _, tags in found if tags.fault), "")
        passed = f" Of the records that were left out the first: {fault}" if fault else ""
        raise DataError(
            f"{names}: no word is in an entity, so there is nothing to learn. Check the tags.{passed}"
        )
    if together.scheme != PLAIN and not may_be_empty:
        _refuse_lookalikes(together.types)
    return together


def scheme_name(name: str) -> str:
    """The scheme that `data.scheme` means: a key of `SCHEMES`, `plain`, or `auto`."""
    known = ("auto", *(key.lower() for key in SCHEMES), PLAIN)
    if name.lower() not in known:
        raise ConfigError(
            f"data.scheme={name!r} is unknown. Use one of: {', '.join(known)}.{nearest(name, known)}"
        )
    return name.lower() if name.lower() in ("auto", PLAIN) else name.upper()


def _together(found: list[tuple[Path, TagsFound]]) -> TagsFound:
    types: Counter[str] = Counter()
    scheme, first = "", None
    for path, tags in found:
        types.update(tags.types)
        if not tags.scheme:
            continue
        if first is None:
            scheme, first = tags.scheme, f"{path}:{tags.line}"
        elif tags.scheme != scheme:
            raise DataError(
                f"{path}:{tags.line}: the tags of this file follow {tags.scheme}, and those of {first} {scheme}. Write"
                " all files in one scheme; where one of them was taken for what it is not, name it with data.scheme."
            )
    if scheme == PLAIN and len(types) == 1:
        raise DataError(
            f"{first}: every word has the tag {next(iter(types))!r}. Set data.tag_column to the column of the tags."
        )
    return TagsFound(dict(sorted(types.items())), scheme, 0, sum(tags.records for _, tags in found))


def _refuse_lookalikes(types: dict[str, int]) -> None:
    spellings: dict[str, str] = {}
    for name, count in types.items():
        other = spellings.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"the types {other!r} ({types[other]:,} entities) and {name!r} ({count:,}) differ in case alone. Write"
                " them alike, or name the labels of both in task.labels."
            )


def _read_file(
    path: Path,
    reader: TokenReader,
    scheme: str,
    tag_names: tuple[str, ...],
    skip: bool,
    tell: Callable[[int], None],
) -> TagsFound:
    types: Counter[str] = Counter()
    lines: list[int] = []  # of the sentences with tags, for the message of a scheme that does not fit
    said = 0  # the line of the first tag other than O
    records, fault = 0, ""

    def sentences() -> Iterator[list[str]]:
        nonlocal records, said, fault
        for item in reader(path):
            records += 1
            if records % _TOLD == 0:
                tell(records)
            try:
                if isinstance(item, Fault):
                    raise item.error
                parsed = parse_tokens(item.value, reader.format, tag_names=tag_names)
                if parsed.tags is not None and scheme != "auto":
                    types.update(_types_of(parsed.tags, scheme))
            except DataError as error:
                if not isinstance(item, Fault):
                    error = at_word(error, item.value)
                error = error.at(item.path, item.line)
                if skip:
                    fault = fault or str(error)
                    continue
                raise error from None
            if parsed.entities is not None:
                types.update(span.type for span in parsed.entities)
            if parsed.tags is not None:
                if not said and any(tag != OUTSIDE for tag in parsed.tags):
                    said = item.line
                lines.append(item.line)
                yield parsed.tags

    found = _detect(path, sentences(), lines, types) if scheme == "auto" else _read_all(sentences(), scheme)
    tell(records)
    return TagsFound(dict(types), found if said else "", said, records, fault)


def _types_of(tags: list[str], scheme: str) -> list[str]:
    if scheme == PLAIN:
        schemes.check_tags(tags, scheme)
        return tags
    return [span.type for span in spans_of(tags, scheme)]


def spans_of(tags: list[str], scheme: str) -> list[Span]:
    """The entities of a record's tags. A `DataError` says which settings may be wrong where it is not the tags."""
    try:
        return read_tags(tags, scheme)
    except DataError as error:
        raise DataError(f"{error}. Correct the tags, or say in data.scheme what they follow.") from None


def _read_all(sentences: Iterator[list[str]], scheme: str) -> str:
    for _ in sentences:
        pass
    return scheme


def _detect(path: Path, sentences: Iterator[list[str]], lines: list[int], types: Counter[str]) -> str:
    """The scheme of a file, in one pass. What its tags count is known only when all are read, so each kind is kept."""
    tags: Counter[tuple[str, str]] = Counter()  # (tag before, tag): an entity of IOB1 may begin with I-

    def counted() -> Iterator[list[str]]:
        for sentence in sentences:
            tags.update(zip([OUTSIDE, *sentence], sentence, strict=False))
            yield sentence

    try:
        scheme = detect_scheme(counted())
    except DataError as error:
        raise _placed(error, path, lines) from None
    for (before, tag), count in tags.items():
        if scheme == PLAIN:
            types[tag] += count
        elif tag != OUTSIDE and (tag[0] in "BSU" or (scheme == "IOB1" and before[2:] != tag[2:])):
            types[tag[2:]] += count
    return scheme


def _placed(error: DataError, path: Path, lines: list[int]) -> DataError:
    """`sentence 7, word 2: ...` as `path:31: word 2: ...`, for each place in the message."""
    text = str(error)
    if text.startswith(f"{path}:"):
        return error  # a record's, which has its place
    places = re.compile(r"sentence (\d+)(?=, word)")
    first = places.search(text)
    if first is None:
        return error.at(path)
    text = places.sub(lambda found: f"the record of line {lines[int(found[1]) - 1]}", text)
    return DataError(f"{text}. Or name the scheme with data.scheme").at(path, lines[int(first[1]) - 1])


def _key(path: Path, reader: TokenReader, scheme: str, tag_names: Sequence[str], on_error: str) -> str:
    """SHA-256 over all that decides what is found."""
    parts: dict[str, Any] = {
        "labels": _code_digest(),
        "file": [path.suffix.lower(), file_digest(path)],
        "reader": reader.settings(),
        "scheme": scheme,
        "tag_names": list(tag_names),
        "on_error": on_error,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _code_digest() -> str:
    here = Path(__file__).parent
    own = [
        here / "records.py",
        here / "token_files.py",
        here / "token_records.py",
        here / "token_labels.py",
        Path(schemes.__file__),
    ]
    digest = hashlib.sha256()
    for source in [*own, *sorted((here / "readers").glob("*.py")), here.parent / "text" / "words.py"]:
        digest.update(source.read_bytes())
    return digest.hexdigest()
