"""How good the replies of a chat model are: whether they end, whether their calls can be made, and what they say.

Scores of texts are those of sacrebleu (Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018), an optional
package; exact match and the F1 of words need none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glm_train.text.answers import OBSERVATION, Answer, Call, Reply
from glm_train.text.words import split_words

END_OF_TEXT, USER = "<|endoftext|>", "<|user|>"
NO_SACREBLEU = 'BLEU and chrF need the sacrebleu package: pip install "glm-train[eval]"'


@dataclass(frozen=True)
class Replied:
    """An answer, the reply that the data have in its place, and the tools that the model was told of."""

    answer: Answer
    reference: Reply
    tools: tuple[dict[str, Any], ...] = ()


def reply_scores(replies: Sequence[Replied], stop_token: str = "role") -> tuple[dict[str, float], list[str]]:
    """Scores by name, shares from 0 to 1 but for BLEU and chrF (0 to 100), and notes for the user.

    `stop_rate`         ended by a stop token            `runaway_rate`      cut by the length limit
    `right_stop_rate`   ended by the token that was trained: `<|observation|>` after a call, else `<|user|>`, where
                        `<|endoftext|>` is right too; with `stop_token` endoftext only that
    `call_json_rate`    of the calls, those whose arguments are a JSON object
    `call_valid_rate`   of the calls, those that could be made: see `call_fault`
    `call_match`        of the prompts that ask for calls, those that get the same, whatever the order of arguments
    `exact_match`, `word_f1`, `bleu`, `chrf`   the last three of the prompts that ask for a text, over the texts
    """
    if not replies:
        return {}, []
    count = len(replies)
    scores = {
        "stop_rate": sum(r.answer.stopped_by is not None for r in replies) / count,
        "runaway_rate": sum(r.answer.stopped_by is None for r in replies) / count,
        "right_stop_rate": sum(stopped_right(r.answer, stop_token) for r in replies) / count,
        "exact_match": sum(same(r.answer.reply, r.reference) for r in replies) / count,
    }
    calls = [(call, r.tools) for r in replies for call in r.answer.reply.calls]
    if calls:
        faults = [call_fault(call, tools) for call, tools in calls]
        scores["call_json_rate"] = sum(call.values() is not None for call, _ in calls) / len(calls)
        scores["call_valid_rate"] = faults.count("") / len(calls)
    if asked := [r for r in replies if r.reference.calls]:
        scores["call_match"] = sum(same_calls(r.answer.reply, r.reference) for r in asked) / len(asked)
    notes = []
    texts = [(r.answer.text, r.reference.content) for r in replies if r.reference.content.strip()]
    if texts:
        scores["word_f1"] = sum(word_f1(*pair) for pair in texts) / len(texts)
        found = sacrebleu_scores(*zip(*texts, strict=True))
        scores |= found or {}
        notes = [] if found is not None else [NO_SACREBLEU]
    return scores, notes


def stopped_right(answer: Answer, stop_token: str = "role") -> bool:
    """Whether an answer was ended by the token that stands behind such an answer in training."""
    if stop_token == "endoftext":
        return answer.stopped_by == END_OF_TEXT
    if answer.reply.calls:
        return answer.stopped_by == OBSERVATION
    return answer.stopped_by in (USER, END_OF_TEXT)


def call_fault(call: Call, tools: Sequence[dict[str, Any]]) -> str:
    """Why a call cannot be made; empty where it can: its tool is one of `tools`, where there are any, and its arguments
    are a JSON object with all that the tool requires. GLM's own tools take any text."""
    functions = {}
    for tool in tools:
        function = tool.get("function") or tool
        if isinstance(function, dict):
            functions[function.get("name") or tool.get("type")] = function
    if functions and call.name not in functions:
        return "unknown tool"
    function = functions.get(call.name, {})
    if function and "name" not in function:
        return ""
    values = call.values()
    if values is None:
        return "arguments are no JSON object"
    parameters = function.get("parameters")
    required = parameters.get("required") if isinstance(parameters, dict) else None
    missing = [name for name in required or () if name not in values]
    return f"missing: {', '.join(map(str, missing))}" if missing else ""


def same(reply: Reply, reference: Reply) -> bool:
    """Whether two replies say and call the same; white space around a text does not count."""
    return reply.content.strip() == reference.content.strip() and same_calls(reply, reference)


def same_calls(reply: Reply, reference: Reply) -> bool:
    """Whether two replies call the same tools with the same arguments, in the same order."""
    return [_comparable(call) for call in reply.calls] == [_comparable(call) for call in reference.calls]


def _comparable(call: Call) -> tuple[str, Any]:
    values = call.values()
    return call.name, call.arguments if values is None else values


def word_f1(text: str, reference: str) -> float:
    """F1 of the words of two texts as bags, without regard to case; of Chinese, of the characters."""
    found, wanted = _words(text), _words(reference)
    common = (found & wanted).total()
    if not common:
        return float(found == wanted)
    return 2 * common / (found.total() + wanted.total())


def sacrebleu_scores(texts: Sequence[str], references: Sequence[str]) -> dict[str, float] | None:
    """`bleu` and `chrf` of a whole set, 0 to 100; None where sacrebleu is not installed. Where a reference has a Han
    character, words are cut as sacrebleu cuts Chinese."""
    try:
        import sacrebleu
    except ModuleNotFoundError:
        return None
    cut = "zh" if any(_is_han(character) for text in references for character in text) else "13a"
    bleu = sacrebleu.corpus_bleu(list(texts), [list(references)], tokenize=cut)
    chrf = sacrebleu.corpus_chrf(list(texts), [list(references)])
    return {"bleu": bleu.score, "chrf": chrf.score}


def _words(text: str) -> Counter[str]:
    return Counter(text[begin:end].casefold() for begin, end in split_words(text))


def _is_han(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff" or "\u3400" <= character <= "\u4dbf" or character >= "\U00020000"
