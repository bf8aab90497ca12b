"""`glm-train preview RECIPE`: what would be trained, token by token, and whether it should be."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glm_train.cli.arguments import add_recipe
from glm_train.errors import CheckFailed, ConfigError

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.preview.report import Preview

_SHOWN = 3


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "preview",
        help="what would be trained: tokens by kind, and a report",
        description="Show the examples of a run as they would be trained, then a report. Exit code 3 where a rule is"
        " broken: nothing trained in an example, a header trained, an answer without stop token, leakage.",
    )
    add_recipe(parser)
    parser.add_argument(
        "--examples", type=int, metavar="N", help=f"how many examples (default {_SHOWN}; --json: all)"
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object a line: each example, then the report"
    )
    parser.add_argument("--html", metavar="FILE", help="write a page instead")
    parser.add_argument(
        "--leakage",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of the validation examples, how many may also be in training (default 0.01)",
    )


def run(args: argparse.Namespace) -> int:
    if args.examples is not None and args.examples < 0:
        raise ConfigError(f"--examples {args.examples}: must be at least 0")
    if not 0 <= args.leakage <= 1:
        raise ConfigError(f"--leakage {args.leakage}: must be a share from 0 to 1")
    if args.json and args.html:
        raise ConfigError("--json and --html: choose one of the two")
    page = Path(args.html) if args.html else None
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise ConfigError(f"--html {page}: not a file in an existing folder")
    from glm_train.config.compose import compose

    config = compose(args.recipe, args.overrides)
    show = _show_chats if config.task.name == "chat" else _show_labels
    faults = show(config, args, page, _SHOWN if args.examples is None else args.examples)
    sys.stdout.flush()
    if faults:
        raise CheckFailed("\n".join(faults))
    return 0


def _show_chats(config: RunConfig, args: argparse.Namespace, page: Path | None, limit: int) -> list[str]:
    """Show what was asked for; the broken rules."""
    from glm_train.preview.report import Preview

    preview = Preview(config, args.leakage)
    if args.json:
        _print_json(preview, args.examples)
    elif page is not None:
        from glm_train.preview.page import page as html_page

        _write(page, html_page(preview, limit, title=args.recipe))
    else:
        from glm_train.preview.terminal import print_preview

        print_preview(preview, limit, colour=_colour())
    return preview.report.faults


def _show_labels(config: RunConfig, args: argparse.Namespace, page: Path | None, limit: int) -> list[str]:
    from glm_train.preview.labelled import RunLabelPreview

    preview = RunLabelPreview(config, args.leakage)
    if args.json:
        preview.print_json(args.examples)
    elif page is not None:
        _write(page, preview.page(limit, title=args.recipe))
    else:
        preview.print_text(limit, colour=_colour())
    return preview.faults


def _write(page: Path, text: str) -> None:
    page.write_text(text, encoding="utf-8")
    print(f"written     {page}")


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _print_json(preview: Preview, limit: int | None) -> None:
    for example in preview.examples(limit):
        ids = example.input_ids.tolist()
        line = {
            "split": example.split,
            "file": example.file,
            "line": example.line,
            "input_ids": ids,
            "labels": example.labels.tolist(),
            "tokens": [preview.tokenizer.id_to_token(id_) for id_ in ids],
        }
        print(json.dumps(line, ensure_ascii=False))
    print(json.dumps({"report": preview.report.as_json()}, ensure_ascii=False))
