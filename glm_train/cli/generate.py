"""`glm-train generate RUN_OR_MODEL`: answer prompts, or chat."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from glm_train.errors import ConfigError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate", help="talk to a model", description="Answer each --prompt, or chat when none is given."
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument(
        "--prompt", action="append", default=[], help="a user message; may be given several times"
    )
    parser.add_argument("--system", help="a system message")
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, help="longest answer, in tokens (default 256)"
    )
    parser.add_argument(
        "--temperature", type=float, help="draw tokens at this temperature; without it, greedy"
    )
    for name, kind, text in (
        ("top-p", float, "draw from the likeliest share of mass p"),
        ("top-k", int, "draw from the k likeliest tokens, 0 for all (default 50)"),
        ("min-p", float, "draw from tokens at least p times as likely as the likeliest"),
        ("seed", int, "of the drawing (default 0)"),
    ):
        parser.add_argument(f"--{name}", type=kind, help=f"with --temperature: {text}")
    parser.add_argument(
        "--repetition-penalty", type=float, help="above 1: tokens of prompt and answer become less likely"
    )
    parser.epilog = (
        "Of --top-p, --top-k, --min-p and --repetition-penalty, those not given are what the model's "
        "generation_config.json says, if anything."
    )


def run(args: argparse.Namespace) -> int:
    sampling = _sampling(args)
    from glm_train.generate import Talker
    from glm_train.text.chat import Message

    system = [Message("system", args.system)] if args.system else []
    talker = Talker(args.model)
    history: list[Message] = []
    for prompt in args.prompt or _typed():
        if args.prompt:
            history = []  # each --prompt is a conversation of its own
            print(f"> {prompt}")
        history.append(Message("user", prompt))
        answer = talker.answer([*system, *history], on_text=_show, **sampling)
        if answer.text.strip():
            history.append(Message("assistant", answer.text))
        else:
            history.pop()  # GLM has no empty turn: the conversation goes on as if this were not asked
        ended = f"stopped by {answer.stopped_by}" if answer.stopped_by else "cut by --max-new-tokens"
        print(f"\n  [{ended}, {answer.tokens} tokens]\n", flush=True)
    return 0


def _sampling(args: argparse.Namespace) -> dict[str, object]:
    """The arguments of generate; refuses values that have no effect."""
    if args.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens {args.max_new_tokens}: must be at least 1")
    if any(not prompt.strip() for prompt in args.prompt):
        raise ConfigError("--prompt is empty: write a question, or leave it out to chat")
    penalty = args.repetition_penalty
    if penalty is not None and not 0.01 <= penalty <= 100:
        raise ConfigError(f"--repetition-penalty {penalty}: must be from 0.01 to 100; 1 is no penalty")
    given = {"max_new_tokens": args.max_new_tokens, "repetition_penalty": penalty}
    if args.temperature is not None:
        _check_drawing(args)
        names = ("temperature", "top_p", "top_k", "min_p")
        return {**given, **{name: getattr(args, name) for name in names}, "seed": args.seed or 0}
    if any(value is not None for value in (args.top_p, args.top_k, args.min_p, args.seed)):
        raise ConfigError(
            "--top-p, --top-k, --min-p and --seed need --temperature: without it the likeliest token is taken"
        )
    return given


def _check_drawing(args: argparse.Namespace) -> None:
    if not 0.01 <= args.temperature <= 100:
        raise ConfigError(
            f"--temperature {args.temperature}: must be from 0.01 to 100; leave it out for greedy answers"
        )
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ConfigError(f"--seed {args.seed}: must be from 0 to 2**63 - 1")
    if args.top_p is not None and not 0 < args.top_p <= 1:
        raise ConfigError(f"--top-p {args.top_p}: must be above 0 and at most 1")
    if args.top_k is not None and args.top_k < 0:
        raise ConfigError(f"--top-k {args.top_k}: must be at least 1, or 0 for all tokens")
    if args.min_p is not None and not 0 <= args.min_p <= 1:
        raise ConfigError(f"--min-p {args.min_p}: must be from 0 to 1")


def _typed() -> Iterator[str]:
    """User messages typed at the terminal, or the lines of standard input, until it ends."""
    interactive = sys.stdin.isatty()
    if interactive:
        print("A chat; an empty line or Ctrl-D ends it.")
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


def _show(text: str) -> None:
    print(text, end="", flush=True)
