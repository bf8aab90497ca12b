"""Arguments that several commands take: a recipe with its settings, numbers, and how tokens are drawn."""

from __future__ import annotations

import argparse
import math
from typing import Any, NamedTuple

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


class _Option(NamedTuple):
    """An option of drawing tokens: what it is, and from where to where it may go."""

    kind: type
    help: str
    least: float
    most: float
    limits: str


_WITHOUT_DRAWING = ("max_new_tokens", "repetition_penalty", "temperature")
_OPTIONS = {
    "max_new_tokens": _Option(int, "longest reply, in tokens (default 256)", 1, 2**31, "at least 1"),
    "temperature": _Option(
        float,
        "draw tokens at this temperature; without it, the likeliest",
        0.01,
        100,
        "from 0.01 to 100; leave it out for the likeliest tokens",
    ),
    "top_p": _Option(float, "draw from the likeliest share of mass p", 1e-9, 1, "above 0 and at most 1"),
    "top_k": _Option(
        int,
        "draw from the k likeliest tokens, 0 for all (default 50)",
        0,
        2**31,
        "at least 1, or 0 for all tokens",
    ),
    "min_p": _Option(
        float, "draw from tokens at least p times as likely as the likeliest", 0, 1, "from 0 to 1"
    ),
    "seed": _Option(int, "of the drawing (default 0)", 0, 2**63 - 1, "from 0 to 2**63 - 1"),
    "repetition_penalty": _Option(
        float,
        "above 1: tokens of prompt and reply become less likely",
        0.01,
        100,
        "from 0.01 to 100; 1 is no penalty",
    ),
}


def add_drawing(parser: argparse._ActionsContainer) -> None:
    """The options of how a reply is made."""
    for name, option in _OPTIONS.items():
        text = option.help if name in _WITHOUT_DRAWING else f"with --temperature: {option.help}"
        metavar = "N" if option.kind is int else "X"
        parser.add_argument(f"--{_dashed(name)}", type=option.kind, metavar=metavar, help=text)


def drawing(args: argparse.Namespace) -> dict[str, Any]:
    """What was said of how a reply is made; refuses values out of their limits, or without effect."""
    given = {name: value for name in _OPTIONS if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        option = _OPTIONS[name]
        if not option.least <= value <= option.most:
            raise ConfigError(f"--{_dashed(name)} {value}: must be {option.limits}")
    drawn = [name for name in given if name not in _WITHOUT_DRAWING]
    if drawn and "temperature" not in given:
        raise ConfigError(
            f"--{_dashed(drawn[0])} needs --temperature: without it the likeliest token is taken"
        )
    return given


def _dashed(name: str) -> str:
    return name.replace("_", "-")
