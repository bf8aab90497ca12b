"""`glm-train recipes`: the recipes that come with the package, one line each."""

from __future__ import annotations

import argparse

from glm_train.config.documents import recipes


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    subparsers.add_parser(
        "recipes",
        help="list the recipes",
        description="List the recipes: name and purpose. `glm-train show NAME` prints what a recipe sets.",
    )


def run(args: argparse.Namespace) -> int:
    del args
    found = recipes()
    width = max(len(name) for name, _ in found)
    for name, purpose in found:
        print(f"{name:<{width}}  {purpose}")
    return 0
