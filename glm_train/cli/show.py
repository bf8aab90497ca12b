"""`glm-train show RECIPE [key=value ...]`: the resolved, checked configuration as YAML on stdout."""

from __future__ import annotations

import argparse
import sys

from glm_train.cli.arguments import add_recipe
from glm_train.config.compose import compose
from glm_train.config.yaml_text import to_yaml


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "show",
        help="print the resolved configuration of a run, without starting it",
        description="Print the whole configuration that `fit` would run, checked. It is itself a recipe.",
    )
    add_recipe(parser)


def run(args: argparse.Namespace) -> int:
    config = compose(args.recipe, args.overrides)
    text = to_yaml(config)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # what is printed must stay a recipe for the same run
        text = to_yaml(config, ascii_only=True)
    print(text, end="")
    return 0
