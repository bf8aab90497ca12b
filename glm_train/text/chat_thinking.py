"""Answers that begin with reasoning, `<think>...</think>answer`, under templates that treat it specially.

Most GLM-4 templates write an answer as it is, and its reasoning is text like any other. GLM-Z1's template keeps
only what follows `</think>`, of every answer, and its generation prompt ends with `<think>`. So only the last
answer of a conversation can be trained as it will be served, after its own generation prompt:

    served    ... <|user|> \\n 1+1? <|assistant|> \\n <think>          the prompt
                                                                  easy </think> 2 <|user|>      the model
    trained   ... <|user|> \\n 1+1? <|assistant|> \\n <think> *easy *</think> *2 *<|user|>

An earlier answer stands in the text without its reasoning. Trained there, it would teach to answer without any,
so it is refused, as is an answer without reasoning: the model is served from inside its reasoning.
"""

from __future__ import annotations

from glm_train.text.messages import Message

OPEN, CLOSE = "<think>", "</think>"
HISTORY_CHANGES = (
    "the chat template writes what stands before this turn otherwise when the conversation goes on, so the turn"
    " cannot be trained as it is served; set data.train_on=last_assistant, mark it train: false, or make it the"
    " last turn of a record of its own"
)


def has_reasoning(message: Message) -> bool:
    """Whether `message` is an answer of which a template may keep a part only."""
    return message.role == "assistant" and not message.metadata and CLOSE in message.content


def opens_reasoning(given: str) -> bool:
    """Whether a generation prompt that ends with `given` leaves the model inside its reasoning."""
    return OPEN in given.rpartition(CLOSE)[2]


def visible(content: str) -> str:
    """What follows the reasoning, as templates cut it."""
    return content.rpartition(CLOSE)[2].strip()


def still_to_write(content: str, given: str, lead: str) -> str:
    """The part of an answer with reasoning that is left to the model when its prompt ends with `given`.

    `lead` is what the template writes between `<|assistant|>` and an answer; it matters where the prompt does
    not open the reasoning. Content may begin with `<think>` or, as a model's own output does, behind it.

        content "<think>a</think>b"  given "\\n<think>"    -> "a</think>b"
        content "a</think>b"         given "\\n<think>"    -> "a</think>b"
        content "<think>\\na</think>b"  given "<think>\\n"  -> "a</think>b"
        content "<think>a</think>b"  given ""  lead "\\n"  -> "\\n<think>a</think>b"
    """
    if not opens_reasoning(given):
        return (lead + content).removeprefix(given)
    begun = content.lstrip()
    if not begun.startswith(OPEN):
        return content
    return begun.removeprefix(OPEN).removeprefix(given.rpartition(OPEN)[2])


def why_not_served(message: Message, given: str, *, last: bool) -> str:
    """Why this turn, which is to be trained, would not be trained as it is served, and the cure."""
    ends = f"the generation prompt of the chat template ends with {given!r}"
    if message.metadata:
        return (
            f"{ends}, and a tool call does not begin so, so it could not be served as it was trained; mark it"
            " train: false, or use a chat template whose generation prompt ends with <|assistant|> (GLM-4-0414)"
        )
    if not last and (opens_reasoning(given) or has_reasoning(message)):
        return (
            "the chat template writes earlier answers without their reasoning (all up to </think>), and trained"
            " so this one would teach to answer without any; set data.train_on=last_assistant, mark it train:"
            " false, or make it the last answer of a record of its own"
        )
    if opens_reasoning(given):
        return (
            f"{ends}, and this answer has no </think>: it would be served from inside its reasoning, and never"
            " close it; write <think>...</think> before the answer, or use the chat template of a model that"
            " does not reason (GLM-4-0414)"
        )
    return f"{ends}, and the template writes this answer otherwise; use the chat template of a GLM-4 model"
