"""`glm-train evaluate RUN_OR_MODEL data.validation=FILE`: scores on labelled data."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glm_train.predict.output import Evaluation


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="score a model on labelled data",
        description=(
            "Print the scores of a model on data.validation, under the names that `fit` logs (val/loss, val/f1, ...), "
            "and tables by label."
        ),
        epilog=(
            "Records are read as the run's data were; key=value changes that. "
            "Where data.validation is not given, it is the run's own."
        ),
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="data.validation=FILE, and other settings"
    )
    parser.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    chat = parser.add_argument_group("chat models")
    for name, text in (
        ("samples", "prompts to reply to, 0 for none (default 32)"),
        ("max-new-tokens", "longest reply, in tokens (default 256)"),
    ):
        chat.add_argument(f"--{name}", type=int, metavar="N", help=text)


def run(args: argparse.Namespace) -> int:
    from glm_train.bar import progress_bar
    from glm_train.predict.run import evaluate

    names = ("samples", "max_new_tokens")
    replies = {name: value for name in names if (value := getattr(args, name)) is not None}
    with progress_bar() as progress:
        found = evaluate(args.model, args.overrides, replies=replies, progress=progress)
    if args.json:
        for note in found.notes:
            print(note, file=sys.stderr)
        print(json.dumps(found.metrics, ensure_ascii=False))
    else:
        print(_shown(found))
    return 0


def _shown(found: Evaluation) -> str:
    """Names and values in columns, the notes, and the tables with a blank line before each."""
    width = max(map(len, found.metrics))
    values = [f"{value:,.6f}" for value in found.metrics.values()]
    right = max(map(len, values))
    lines = [f"{name:<{width}}  {value:>{right}}" for name, value in zip(found.metrics, values, strict=True)]
    return "\n".join(
        [*lines, *(["", *found.notes] if found.notes else []), *(f"\n{t}" for t in found.tables)]
    )
