"""Arguments that several commands take: a recipe with its settings, numbers, and how tokens are drawn."""

from __future__ import annotations

import argparse
import math
from typing import Any

from glm_train.errors import ConfigError


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a name that `glm-train recipes` lists, or the path of a YAML file",
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that replace the recipe's"
    )


def number(text: str, above: float = -math.inf) -> float:
    """A finite number greater than `above`, as the `type` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not above < value < math.inf:
        limit = "" if above == -math.inf else f" above {above:g}"
        raise argparse.ArgumentTypeError(f"expected a number{limit}, found {text!r}")
    return value


_DRAWING = (
    ("max-new-tokens", int, "longest reply, in tokens (default 256)"),
    ("repetition-penalty", float, "above 1: tokens of prompt and reply become less likely"),
    ("temperature", float, "draw tokens at this temperature; without it, the likeliest"),
    ("top-p", float, "with --temperature: draw from the likeliest share of mass p"),
    ("top-k", int, "with --temperature: draw from the k likeliest tokens, 0 for all (default 50)"),
    ("min-p", float, "with --temperature: draw from tokens at least p times as likely as the likeliest"),
    ("seed", int, "with --temperature: of the drawing (default 0)"),
)
_LIMITS = {
    "max-new-tokens": (1, 2**31, "at least 1"),
    "repetition-penalty": (0.01, 100, "from 0.01 to 100; 1 is no penalty"),
    "temperature": (0.01, 100, "from 0.01 to 100; leave it out for the likeliest tokens"),
    "top-p": (1e-9, 1, "above 0 and at most 1"),
    "top-k": (0, 2**31, "at least 1, or 0 for all tokens"),
    "min-p": (0, 1, "from 0 to 1"),
    "seed": (0, 2**63 - 1, "from 0 to 2**63 - 1"),
}


def add_drawing(parser: argparse._ActionsContainer) -> None:
    """The options of how a reply is made."""
    for name, kind, text in _DRAWING:
        parser.add_argument(f"--{name}", type=kind, metavar="N" if kind is int else "X", help=text)


def drawing(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of how a reply is made; refuses values out of their limits, or without effect."""
    given: dict[str, Any] = {}
    for name, (least, most, wanted) in _LIMITS.items():
        value = getattr(args, name.replace("-", "_"))
        if value is None:
            continue
        if not least <= value <= most:
            raise ConfigError(f"--{name} {value}: must be {wanted}")
        if name in ("top-p", "top-k", "min-p", "seed") and args.temperature is None:
            raise ConfigError(f"--{name} needs --temperature: without it the likeliest token is taken")
        given[name.replace("-", "_")] = value
    return given
