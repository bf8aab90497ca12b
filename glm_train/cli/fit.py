"""`glm-train fit RECIPE`: train."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from glm_train.cli import program


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("fit", help="train", description="Train as a recipe says.")
    parser.add_argument("recipe", help="a name that `glm-train recipes` lists, or the path of a YAML file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that differ from the recipe's"
    )
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
    from glm_train.config.compose import compose

    config = compose(args.recipe, args.overrides)
    from glm_train.callbacks.preemption import Stopped
    from glm_train.run import fit

    try:
        result = fit(config, args.recipe)
    except Stopped as stopped:
        kept = [o for o in args.overrides if not o.startswith(("resume=", "output_dir="))]
        again = shlex.join([program(), "fit", args.recipe, *kept, f"resume={stopped.folder}"])
        print(f"glm-train: {stopped}. Go on with: {again}", file=sys.stderr)
        return stopped.exit_code
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
    return 0
