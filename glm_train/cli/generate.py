"""`glm-train generate RUN_OR_MODEL`: answer prompts, or chat."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glm_train.cli.arguments import add_drawing, drawing
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
    add_drawing(parser)
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


def _sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of generate; refuses values that have no effect."""
    if args.prompt and args.file is not None:
        raise ConfigError("--prompt and --file are two ways to ask; give one")
    if any(not prompt.strip() for prompt in args.prompt):
        raise ConfigError("--prompt is empty: write a question, or leave it out to chat")
    given = drawing(args)
    return {"seed": 0, **given} if "temperature" in given else given


def _show(text: str) -> None:
    print(text, end="", flush=True)
