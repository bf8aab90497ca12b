"""`glm-train`: finds the command, runs it, and turns errors into messages and exit codes.

A command is a module with `add_parser(subparsers)` and `run(args) -> int`. Only the module of the
command that was asked for is imported, so that help is instant.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from glm_train import __version__
from glm_train.errors import GlmTrainError, nearest


class Command(NamedTuple):
    """A line of the help, and where the command is."""

    name: str
    help: str
    module: str
    takes_recipe: bool = False


COMMANDS = (
    Command("demo", "make a tiny random GLM folder and small real data sets, offline", "glm_train.cli.demo"),
    Command("fit", "train: RECIPE [key=value ...]", "glm_train.cli.fit", True),
    Command(
        "show", "print the resolved configuration of a run, without starting it", "glm_train.cli.show", True
    ),
    Command("prepare", "tokenise the data of a run ahead of time", "glm_train.cli.prepare", True),
    Command("preview", "what a run would train, token by token, and a report", "glm_train.cli.preview", True),
    Command("recipes", "list the recipes", "glm_train.cli.recipes"),
    Command("export", "write a run's model as a Hugging Face folder, checked", "glm_train.cli.export"),
    Command("convert", "rewrite a model folder: chatglm layout <-> Hugging Face's", "glm_train.cli.convert"),
    Command("generate", "answer a prompt, or chat, with a trained model", "glm_train.cli.generate"),
    Command("predict", "answer each record of a file: labels, entities, replies", "glm_train.cli.predict"),
    Command("evaluate", "score a model on labelled data", "glm_train.cli.evaluate"),
)
_EPILOG = "Settings are written key=value, such as optim.lr=1e-4. See also `glm-train COMMAND --help`."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done; 2 the user's input is wrong; 3 a check refused; 130 stopped by Ctrl-C; 141 nobody reads our
        output; else what the command says.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        _print_anything(stream)
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except GlmTrainError as error:
        print(_message(error), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("glm-train: stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away, as `head` does. Python would complain again while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _print_anything(stream: object) -> None:
    """Let a stream escape the letters that its encoding lacks, where it would raise instead."""
    if not isinstance(stream, io.TextIOWrapper):
        return
    whole = stream.encoding.lower().replace("_", "-") in ("utf-8", "utf8")
    if stream.errors == "strict" or (stream.errors == "surrogateescape" and not whole):
        stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> int:
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    command = next((command for command in COMMANDS if command.name == asked), None)
    parser = _parser(command)
    if asked is not None and command is None:
        names = [command.name for command in COMMANDS]
        hint = nearest(asked, names)
        parser.error(f"there is no command '{asked}'.{hint} The commands are: {', '.join(names)}.")
    if command is not None and command.takes_recipe:
        _ask_for_recipe(parser, command.name, arguments)
    args = _parse(parser, arguments)
    if command is None:
        parser.print_help()
        return 0
    return import_module(command.module).run(args)


def _parser(asked: Command | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glm-train", description="Fine-tune GLM-4 models.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"glm-train {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        if command is asked:
            import_module(command.module).add_parser(subparsers)
        else:
            subparsers.add_parser(command.name, help=command.help)
    return parser


def _ask_for_recipe(parser: argparse.ArgumentParser, command: str, arguments: list[str]) -> None:
    """End with a message of our own where no word follows the command: argparse's asks for key=value too."""
    words = [argument for argument in arguments if not argument.startswith("-")]
    wants_help = any(argument.startswith(("-h", "--h")) for argument in arguments)
    if words == [command] and not wants_help:
        parser.error(
            f"the recipe is missing: glm-train {command} RECIPE [key=value ...]. "
            "`glm-train recipes` lists them; the path of a YAML file works too."
        )


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Parse, and let options stand between overrides: argparse alone refuses `fit RECIPE -m key=value`."""
    args, rest = parser.parse_known_args(arguments)
    options = [argument for argument in rest if argument.startswith("-")]
    if options:
        cure = " Settings are written key=value, without dashes." if hasattr(args, "overrides") else ""
        parser.error(f"there is no option {' or '.join(options)}.{cure}")
    if rest and not hasattr(args, "overrides"):
        parser.error(f"too many arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _message(error: GlmTrainError) -> str:
    """`glm-train: error: ...`, with the faults after the first line indented."""
    first, *others = str(error).splitlines() or [""]
    return "\n".join([f"glm-train: error: {first}", *(f"  {line}" for line in others)])


if __name__ == "__main__":
    sys.exit(main())
