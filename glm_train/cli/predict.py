"""`glm-train predict RUN_OR_MODEL IN OUT`: answers for a file of records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from glm_train.errors import ConfigError


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
    for name, kind, text in (
        ("max-new-tokens", int, "longest reply, in tokens"),
        ("temperature", float, "draw tokens at this temperature; without it, the likeliest"),
        ("top-p", float, "with --temperature: draw from the likeliest share of mass p"),
        ("top-k", int, "with --temperature: draw from the k likeliest tokens, 0 for all"),
        ("min-p", float, "with --temperature: draw from tokens at least p times as likely as the likeliest"),
        ("seed", int, "with --temperature: of the drawing"),
        ("repetition-penalty", float, "above 1: tokens of prompt and reply become less likely"),
    ):
        chat.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=text)
    chat.add_argument("--resume", action="store_true", help="go on with an OUT that was not finished")


def run(args: argparse.Namespace) -> int:
    generation = _generation(args)
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


def _generation(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of the drawing of tokens; refuses values out of their limits."""
    names = ("max_new_tokens", "repetition_penalty", "temperature", "top_p", "top_k", "min_p", "seed")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    limits = {
        "max_new_tokens": (1, 2**31, "at least 1"),
        "temperature": (0.01, 100, "from 0.01 to 100; leave it out for the likeliest tokens"),
        "repetition_penalty": (0.01, 100, "from 0.01 to 100; 1 is no penalty"),
        "min_p": (0, 1, "from 0 to 1"),
        "top_p": (1e-9, 1, "above 0 and at most 1"),
        "top_k": (0, 2**31, "at least 1, or 0 for all tokens"),
        "seed": (0, 2**63 - 1, "from 0 to 2**63 - 1"),
    }
    for name, value in given.items():
        low, high, wanted = limits[name]
        if not low <= value <= high:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be {wanted}")
    if "temperature" not in given and (drawn := [n for n in names[3:] if n in given]):
        raise ConfigError(
            f"--{drawn[0].replace('_', '-')} needs --temperature: without it the likeliest token is taken"
        )
    return given
