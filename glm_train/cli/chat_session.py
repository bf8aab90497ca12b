"""The chat of `glm-train generate`: what is typed, line by line, becomes turns and commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from glm_train.errors import DataError, nearest
from glm_train.text.messages import Message

if TYPE_CHECKING:
    from glm_train.text.answers import Answer

QUOTE = '"""'
COMMANDS = ("/tool", "/system", "/reset", "/help", "/quit")
HELP = f"""\
  /tool RESULT   give the result of the tool that was called, of several calls one after the other
  /system TEXT   change the system message; without TEXT, remove it
  /reset         forget the conversation
  /quit          end (also Ctrl-D)
  Ctrl-C         stop an answer
Text of several lines stands between two {QUOTE}. A message that begins with / is written //."""

#: Messages, system message first, to the reply; shows it on the way.
Answerer = Callable[[Sequence[Message]], "Answer"]


class ChatSession:
    """A conversation as it is typed. `take` gets a line, or several that belong together."""

    def __init__(self, answer: Answerer, system: str = "") -> None:
        self._answer = answer
        self._system = system
        self.history: list[Message] = []
        self._pending: list[str] = []  # names of called tools whose results are still to come

    def take(self, text: str) -> bool:
        """Do what was typed. False where it was the end."""
        if not text.startswith("/") or text.startswith("//"):
            self._say(text[1:] if text.startswith("/") else text)
            return True
        command, _, rest = text.partition(" ")
        command, line_break, more = command.partition("\n")
        rest = (more + " " + rest if rest else more) if line_break else rest
        if command in ("/quit", "/exit", "/bye"):
            return False
        if command == "/tool":
            self._give_result(rest)
        elif command == "/system":
            self._system = rest.strip()
            print("  [the system message is changed]" if self._system else "  [no system message]")
        elif command == "/reset":
            self.history, self._pending = [], []
            print("  [the conversation is forgotten]")
        elif command == "/help":
            print(HELP)
        else:
            print(f"  [{command}: no such command.{nearest(command, COMMANDS)} /help lists them]")
        return True

    def _say(self, text: str) -> None:
        if self._pending:
            print(f"  [the model waits for the result of {self._pending[0]}: /tool RESULT, or /reset]")
            return
        self._go_on([Message("user", text)])

    def _give_result(self, result: str) -> None:
        if not self._pending:
            print("  [no tool was called]")
            return
        self.history.append(Message("observation", result.strip()))
        self._pending.pop(0)
        if self._pending:
            print(f"  [now the result of {self._pending[0]}: /tool RESULT]")
        else:
            self._go_on([])

    def _go_on(self, asked: list[Message]) -> None:
        """Answer; where nothing comes of it, the conversation goes on as if this were not asked."""
        before = len(self.history)
        self.history += asked
        system = [Message("system", self._system)] if self._system else []
        try:
            answer = self._answer([*system, *self.history])
        except KeyboardInterrupt:
            print("\n  [stopped; this was not asked]\n", flush=True)
            del self.history[before:]
            return
        except DataError as error:
            print(f"  [{error}]\n", flush=True)
            del self.history[before:]
            return
        turns = answer.reply.as_turns()
        if not turns:
            del self.history[before:]  # GLM has no empty turn
        self.history += turns
        self._pending = [call.name for call in answer.reply.calls]
        if self._pending:
            print(f"  [answer as {self._pending[0]} with /tool RESULT]", flush=True)


def typed_texts() -> Iterator[str]:
    """What is typed at the terminal, or the lines of standard input, until it ends. Blank lines are passed over."""
    interactive = sys.stdin.isatty()
    if interactive:
        print("A chat. /help lists the commands, Ctrl-D ends it.")
    while True:
        try:
            line = input("> " if interactive else "")
            if line.strip().startswith(QUOTE):
                line = _quoted(line.strip().removeprefix(QUOTE), "| " if interactive else "")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise DataError(f"standard input is not UTF-8 text ({error.reason})") from None
        if line.strip():
            yield line


def _quoted(begun: str, prompt: str) -> str:
    lines = [begun] if begun else []
    while not (lines and lines[-1].rstrip().endswith(QUOTE)):
        lines.append(input(prompt))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTE)
    return "\n".join(lines).strip("\n")


def show_answer(answer: Any) -> None:
    """What follows the text of an answer: its calls, and how it ended."""
    for call in answer.reply.calls:
        name, _, arguments = str(call).partition("\n")
        print(f"\n  calls {name}")
        for line in arguments.splitlines():
            print(f"    {line}")
    ended = f"stopped by {answer.stopped_by}" if answer.stopped_by else "cut by the length limit"
    print(f"\n  [{ended}, {answer.tokens} tokens]\n", flush=True)
