"""The preview for a terminal: colours where there are any, else marks around what is trained."""

from __future__ import annotations

from glm_train.preview.report import CONTEXT, STOP, TRAINED, Preview, Report, SplitReport

_COLOURS = {CONTEXT: "\x1b[2m", TRAINED: "\x1b[32m", STOP: "\x1b[1;35m"}
_PLAIN = "\x1b[0m"
_MARKS = {CONTEXT: ("", ""), TRAINED: ("⟦", "⟧"), STOP: ("⟪", "⟫")}
_BAR = 40


def print_preview(preview: Preview, limit: int, *, colour: bool) -> None:
    """`limit` examples of each split, then the report."""
    if limit:
        print(f"{_paint(CONTEXT, 'context', colour)}  {_paint(TRAINED, 'trained', colour)}  ", end="")
        print(f"{_paint(STOP, 'stop token, trained', colour)}\n")
    for example in preview.examples(limit):
        trained = sum(kind != CONTEXT for kind in preview.kinds(example))
        print(f"--- {example.split} {example.index}  {example.file}:{example.line}  ", end="")
        print(f"{len(example.input_ids):,} tokens, {trained:,} trained")
        print("".join(_paint(kind, text, colour) for kind, text in preview.parts(example)), end="\n\n")
    print("\n".join(report_lines(preview.report)))


def report_lines(report: Report) -> list[str]:
    """The report in words, a subject a line."""
    lines = _split_lines("train", report.train)
    lines.append(f"{'':12}{report.duplicates_in_training:,} examples are copies of another one")
    if report.validation is not None:
        lines += _split_lines("validation", report.validation)
        lines.append(f"{'':12}{report.validation_also_in_training:,} examples are also in training")
        places = ", ".join(report.first_prompts_in_training)
        first = f" (first: {places})" if places else ""
        lines.append(
            f"{'':12}{report.validation_prompts_in_training:,} more ask what training asks too{first}"
        )
    return [*lines, *report.packing.lines()]


def _split_lines(name: str, split: SplitReport) -> list[str]:
    stops = ", ".join(f"{count:,} {token}" for token, count in split.stops.items()) or "none"
    most = max(count for *_, count in split.histogram)
    return [
        f"{name:<12}{split.examples:,} examples, {split.tokens:,} tokens, longest {split.longest:,}",
        f"{'':12}{split.trained:,} tokens trained ({split.share:.1%}) in {split.answers:,} answers",
        f"{'':12}stop tokens trained: {stops}",
        *(f"{'':12}{line}" for line in split.losses),
        *(
            f"{'':12}{low:>7,} to {high:>7,} tokens  {count:>9,}  {'#' * -(-_BAR * count // most)}"
            for low, high, count in split.histogram
        ),
    ]


def _paint(kind: str, text: str, colour: bool) -> str:
    if colour:
        return f"{_COLOURS[kind]}{text}{_PLAIN}"
    opening, closing = _MARKS[kind]
    return f"{opening}{text}{closing}"
