"""`glm-train predict RUN_OR_MODEL IN OUT`: answers for a file of records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from glm_train.cli.arguments import add_drawing, drawing


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "predict",
        help="answer a file of records",
        description=(
            "Write an answer for each record of IN to OUT, one JSON object a line, in their order: the label with its "
            "probability, entities with their places in the text, or the reply of a chat. A record that cannot be read "
            "has a line with `error` in its place. IN needs no labels."
        ),
        epilog=(
            "Records are read as the run's data were (data.text_key, data.max_length, ...); key=value changes that. "
            "Exit code 2 where no record could be answered, or the end of IN could not be read."
        ),
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument("source", metavar="IN", type=Path, help="JSON Lines, CSV, Parquet, CoNLL, .txt ...")
    parser.add_argument("output", metavar="OUT", type=Path, help="the JSON Lines file to write")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the run's"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="several labels: give those from this probability on (default 0.5)",
    )
    chat = parser.add_argument_group("chat models")
    add_drawing(chat)
    chat.add_argument("--resume", action="store_true", help="go on with an OUT that was not finished")


def run(args: argparse.Namespace) -> int:
    generation = drawing(args)
    from glm_train.bar import progress_bar
    from glm_train.predict.output import report
    from glm_train.predict.run import predict

    with progress_bar() as progress:
        summary = predict(
            args.model,
            args.source,
            args.output,
            args.overrides,
            overwrite=args.overwrite,
            threshold=args.threshold,
            generation=generation,
            resume=args.resume,
            progress=progress,
        )
    report(summary, args.output)
    records = "record" if summary.predicted == 1 else "records"
    faults = f", {summary.faulty:,} with an error" if summary.faulty else ""
    print(f"{args.output}: {summary.predicted:,} {records} answered{faults}")
    if summary.incomplete:
        print(f"glm-train: error: {args.source} could not be read to its end", file=sys.stderr)
        return 2
    return 0
