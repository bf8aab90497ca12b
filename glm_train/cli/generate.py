"""`glm-train generate RUN_OR_MODEL`: answer prompts, or chat."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.cli.chat_session import ChatSession, show_answer, typed_texts
from glm_train.errors import ConfigError, DataError
from glm_train.text.messages import Message

if TYPE_CHECKING:
    from glm_train.text.answers import Answer

Tools = tuple[dict[str, Any], ...] | None


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="talk to a model",
        description="Answer each --prompt, or the chats of a --file, or chat when neither is given.",
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run folder, a model folder or a hub id")
    parser.add_argument(
        "--prompt", action="append", default=[], help="a user message; may be given several times"
    )
    parser.add_argument(
        "--file", help="answer each chat of a data file, or each line of a text file, one after the other"
    )
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--tools", metavar="FILE", help="tools that the model may call: a JSON list of them")
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
    given_tools = _tools(args.tools)
    from glm_train.generate import Talker

    talker = Talker(args.model)

    def answer(messages: Sequence[Message], tools: Tools = given_tools) -> Answer:
        reply = talker.answer(messages, tools=tools, on_text=_show, **sampling)
        show_answer(reply)
        return reply

    system = [Message("system", args.system)] if args.system else []
    if args.file is not None:
        _answer_file(Path(args.file), system, given_tools, answer)
    elif args.prompt:
        for prompt in args.prompt:  # each is a conversation of its own
            print(f"> {prompt}")
            answer([*system, Message("user", prompt)])
    else:
        session = ChatSession(answer, args.system or "")
        for text in typed_texts():
            if not session.take(text):
                break
    return 0


def _answer_file(
    path: Path,
    system: list[Message],
    given_tools: Tools,
    answer: Callable[[Sequence[Message], Tools], Answer],
) -> None:
    """Answer the chats or prompts of a file. What a chat says itself goes before --system and --tools."""
    from glm_train.predict.questions import read_questions

    for question in read_questions(path):
        chat = question.conversation
        messages = chat.messages if chat.messages[0].role == "system" else (*system, *chat.messages)
        print(f"> {messages[-1].content}")
        answer(messages, chat.tools or given_tools)


def _tools(path: str | None) -> Tools:
    """The tools of a file: a JSON list of them. Raises `ConfigError` or `DataError`."""
    if path is None:
        return None
    from glm_train.data.formats.tools import read_tools

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        listed = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        what = getattr(error, "strerror", None) or error
        raise ConfigError(f"--tools {path}: cannot be read as JSON: {what}") from None
    try:
        tools = read_tools([listed] if isinstance(listed, dict) else listed, "tools")
    except DataError as error:
        raise ConfigError(f"--tools {path}: {error}") from None
    if tools is None:
        raise ConfigError(f"--tools {path}: it holds no tool; write a list of tools, or leave --tools out")
    return tools


def _sampling(args: argparse.Namespace) -> dict[str, object]:
    """The arguments of generate; refuses values that have no effect."""
    if args.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens {args.max_new_tokens}: must be at least 1")
    if args.prompt and args.file is not None:
        raise ConfigError("--prompt and --file are two ways to ask; give one")
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


def _show(text: str) -> None:
    print(text, end="", flush=True)
