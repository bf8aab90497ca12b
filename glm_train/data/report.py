"""What became of the records of data files: the report that stands beside prepared examples, in `meta.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


def is_complete(folder: Path, name: str = "examples.arrow") -> bool:
    """Whether `folder` holds a store that was written to its end."""
    try:
        meta = json.loads((folder / "meta.json").read_bytes())
        return (folder / name).stat().st_size == meta["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_meta(examples: Path, report: PrepareReport, dropped_at: dict[str, list[tuple[int, int]]]) -> None:
    """Say beside the file of examples how large it is, which makes the store complete, and how it was made."""
    meta = {"bytes": examples.stat().st_size, "report": asdict(report), "dropped_at": dropped_at}
    (examples.parent / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")


def read_report(folder: Path, files: tuple[str, ...], cache_hit: bool, seconds: float) -> PrepareReport:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    places = {
        reason: tuple(f"{files[file]}:{line}" for file, line in found)
        for reason, found in meta["dropped_at"].items()
    }
    return replace(
        PrepareReport(**meta["report"]),
        files=files,
        dropped_at=places,
        cache_hit=cache_hit,
        cache_folder=str(folder),
        seconds=seconds,
    )


@dataclass(frozen=True)
class PrepareReport:
    """What became of the records of the data files."""

    files: tuple[str, ...] = ()
    records: int = 0
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0  # tokens of the longest example
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> records left out
    dropped_at: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> the first few, path:line
    shortened: int = 0  # examples that lost whole messages to the length limit
    dropped_messages: int = 0  # the messages that they lost
    dropped_tokens: int = 0  # the tokens that truncation took away
    cut: int = 0  # examples that were cut to data.max_length, without whole messages that left
    cut_means: str = "cut {} examples to data.max_length"  # what that does to an example of the task
    size_means: str = "{examples:,} examples, {tokens:,} tokens, {trained:,} trained ({share:.1%})"
    targets_mean: str = "{:,.0f} trained"  # how the task says how many targets there are
    content: str = ""  # a hash of the ids and labels of all examples, in their order
    cache_hit: bool = False
    cache_folder: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        size = self.size(self.examples, self.tokens, self.trained_tokens)
        made = "from the cache" if self.cache_hit else "prepared"
        first = f"{size}, longest {self.longest:,}; {made} in {self.seconds:.1f} s"
        return "\n".join([first, *self.losses()])

    def size(self, examples: int, tokens: int, trained: int) -> str:
        """So many examples, tokens and targets, in the words of the task."""
        share = trained / tokens if tokens else 0.0
        return self.size_means.format(examples=examples, tokens=tokens, trained=trained, share=share)

    def losses(self) -> list[str]:
        """What of the files is not trained on, a line each; empty where all of it is."""
        lines = []
        for reason, count in self.dropped.items():
            lines.append(
                f"left out {count:,} records: {reason} (first: {', '.join(self.dropped_at[reason])})"
            )
        if self.shortened:
            lines.append(f"shortened {self.shortened:,} examples by {self.dropped_messages:,} messages")
        if self.cut:
            lines.append(self.cut_means.format(f"{self.cut:,}"))
        if self.dropped_tokens:
            share = self.dropped_tokens / (self.dropped_tokens + self.tokens)
            lines.append(f"truncation left out {self.dropped_tokens:,} tokens ({share:.1%})")
        return lines
