"""`glm-train fit RECIPE`: train."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glm_train.cli import program
from glm_train.cli.arguments import add_recipe

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.parallel.rendezvous import Output, Rendezvous
    from glm_train.run import RunResult


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("fit", help="train", description="Train as a recipe says.")
    add_recipe(parser)
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="run every combination of values like optim.lr=1e-3,1e-4",
    )


def run(args: argparse.Namespace) -> int:
    if args.multirun:
        from glm_train.cli.sweep import sweep

        return sweep(args.recipe, args.overrides)
    from glm_train.parallel.signals import Stopped, heeded

    try:
        with heeded():
            return _run(args)
    except Stopped as stopped:
        print(f"glm-train: {stopped}{stopped.advice}", file=sys.stderr)
        return stopped.exit_code


def _run(args: argparse.Namespace) -> int:
    from glm_train.config.compose import compose

    config = compose(args.recipe, args.overrides)
    if config.parallel.name == "single" and not _launched():
        return _fit(args, config)
    from glm_train.launch import as_rank, start
    from glm_train.parallel.rendezvous import find_seat

    seat = find_seat()
    if seat is None:
        return start(config, args.recipe, args.overrides)
    return as_rank(seat, config, partial(_fit, args))


def _launched() -> bool:
    """Whether several processes may have been launched, asked without importing torch."""
    names = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    return any(os.environ.get(name, "1") not in ("", "1") for name in names)


def _fit(
    args: argparse.Namespace,
    config: RunConfig,
    meeting: Rendezvous | None = None,
    output: Output | None = None,
) -> int:
    """Train in this process, one of several where there is a `meeting`."""
    from glm_train.parallel.signals import Stopped

    try:
        from glm_train.run import fit

        result = fit(config, args.recipe, meeting, output)
    except Stopped as stopped:
        if stopped.folder is not None:
            kept = [o for o in args.overrides if not o.startswith(("resume=", "output_dir="))]
            there = [f"resume={stopped.folder}"]
            if stopped.at_once:  # there may be no state yet
                there = [f"output_dir={stopped.folder}", "resume=auto"]
            again = shlex.join([program(), "fit", args.recipe, *kept, *there])
            stopped.advice = f". Go on with: {again}"
        raise
    _say_what_is_there(result, config)
    return 0


def _say_what_is_there(result: RunResult, config: RunConfig) -> None:
    path = os.path.relpath(result.folder.path)
    shown = path if not path.startswith("..") else str(result.folder.path)
    values = result.metrics
    losses = {"train loss": values.get("train/loss"), "val loss": values.get("val/loss")}
    shown_losses = [f", {name} {loss:.4f}" for name, loss in losses.items() if loss is not None]
    for table in result.tables:
        print(f"\n{table}")
    print(f"\ndone        {result.steps:,} steps{''.join(shown_losses)}")
    if result.best is not None:
        print(f"best        {result.best}: this model is kept")
    adapted = config.adapter.name != "none"
    what = (
        "adapter, a PEFT folder with its tokenizer" if adapted else "fine-tuned model, a Hugging Face folder"
    )
    for name, about in (
        ("model", f"the {what}"),
        ("metrics.csv", "every logged value"),
        ("report.html", "the curves"),
    ):
        print(f"  {Path(shown, name)!s:<50} {about}")
    trying = 'generate {} --prompt "..."' if config.task.name == "chat" else "predict {} IN OUT"
    print(f"try         {program()} {trying.format(shown)}")
