"""What became of the records of a preparation, and what must not become of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from glm_train.data.encode import FAULTY, Encoded
from glm_train.data.report import PrepareReport
from glm_train.errors import DataError

SHOWN_PLACES, SHOWN_REASONS = 3, 20


@dataclass(frozen=True)
class Wording:
    """How a task speaks of its records, where a preparation reports or refuses."""

    cut: str = PrepareReport.cut_means  # {} is the number of examples
    size: str = PrepareReport.size_means
    targets: str = PrepareReport.targets_mean
    layout: str = "Correct it"  # the cure of a file none of whose records can be read
    length: str = "Raise data.max_length, or change the data"  # of data that leave nothing to train


EXAMPLES = Wording()


class Tally:
    """Counts what becomes of the records."""

    def __init__(self, paths: list[Path], wording: Wording) -> None:
        self.paths, self.wording = paths, wording
        self.counts: Counter[str] = Counter()
        self.records, self.faulty = [0] * len(paths), [0] * len(paths)
        self.longest = 0
        self.content = hashlib.blake2b(digest_size=16)
        self.dropped: Counter[str] = Counter()
        self.dropped_at: dict[str, list[tuple[int, int]]] = {}

    def keep(self, example: Encoded, file: int) -> bool:
        """Count one example, and its record with the first of it; whether it is one."""
        if example.part == 0:
            self.counts["records"] += 1
            self.records[file] += 1
        if example.dropped:
            self._drop(example.dropped, file, example.line)
            return False
        self.longest = max(self.longest, len(example.input_ids))
        counts = self.counts
        counts["examples"] += 1
        counts["tokens"] += len(example.input_ids)
        counts["trained_tokens"] += example.trained
        counts["shortened"] += example.dropped_messages > 0
        counts["dropped_messages"] += example.dropped_messages
        counts["dropped_tokens"] += example.dropped_tokens
        counts["cut"] += example.cut
        self.content.update(b"%d %d;" % (len(example.input_ids), len(example.labels)))
        self.content.update(example.input_ids.astype("<i4", copy=False).tobytes())
        self.content.update(example.labels.astype("<i4", copy=False).tobytes())
        return True

    def _drop(self, reason: str, file: int, line: int) -> None:
        if reason.startswith(FAULTY):
            self.faulty[file] += 1
            if reason not in self.dropped and len(self.dropped) >= SHOWN_REASONS:
                reason = FAULTY + "in other ways"
        self.dropped[reason] += 1
        places = self.dropped_at.setdefault(reason, [])
        if len(places) < SHOWN_PLACES:
            places.append((file, line))

    def refuse_faulty_files(self) -> None:
        """A file of which nothing can be used is a wrong file, not a file with faults."""
        for path, records, faulty in zip(self.paths, self.records, self.faulty, strict=True):
            if records and records == faulty:
                raise DataError(
                    f"{path}: every one of its {records} records is faulty: {self._reasons()}."
                    f" {self.wording.layout}, or take the file out; data.on_error=error shows the first fault."
                )

    def refuse_nothing_left(self) -> None:
        if not self.counts["examples"]:
            raise DataError(
                f"no example is left of {self.counts['records']} records: {self._reasons()}."
                f" {self.wording.length}."
            )

    def _reasons(self) -> str:
        return "; ".join(
            f"{count} {reason} (first: {self.paths[file]}:{line})"
            for reason, count in self.dropped.items()
            for file, line in self.dropped_at[reason][:1]
        )

    def report(self) -> PrepareReport:
        return PrepareReport(
            records=self.counts["records"],
            examples=self.counts["examples"],
            tokens=self.counts["tokens"],
            trained_tokens=self.counts["trained_tokens"],
            longest=self.longest,
            dropped=dict(self.dropped),
            shortened=self.counts["shortened"],
            dropped_messages=self.counts["dropped_messages"],
            dropped_tokens=self.counts["dropped_tokens"],
            cut=self.counts["cut"],
            cut_means=self.wording.cut,
            size_means=self.wording.size,
            targets_mean=self.wording.targets,
            content=self.content.hexdigest(),
        )
