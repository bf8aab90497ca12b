"""Keeps control tokens in the hands of the template: a `<|user|>` that a user typed stays eight ordinary
characters.

A template mixes its own control tokens with the user's text in one string. To tell them apart afterwards,
every spelling of a control token in the user's strings is broken before rendering by a sentinel, a
private-use character that occurs nowhere else, and the sentinel is taken out again after the rendered text
was split:

    content    "say <|user|>"          protected  "say <S|user|>"           (S the sentinel)
    rendered   "<|user|>\\nsay <S|user|>"
    split      <|user|>  |  "\\nsay <S|user|>"
    encoded    [user id] + ordinary pieces of "\\nsay <|user|>"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from glm_train.errors import DataError

# Control tokens of every GLM-4 vocabulary, in its order (they stand right behind the base vocabulary), also where a
# conversion forgot to mark them special.
GLM_CONTROL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)

# JSON can spell what UTF-8 cannot: the tail of a message about such text.
HALF_CHARACTER = (
    "holds half of a surrogate pair (\\ud800 to \\udfff), which is not a character;"
    " write the character itself, or remove it"
)


class ControlTokens:
    """The control tokens of one tokenizer: spelling -> id."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._pattern = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._firsts = {spelling[:1] for spelling in self.ids}

    def occur_in(self, texts: Iterable[str]) -> bool:
        """True where any of `texts` contains the spelling of a control token."""
        joined = "\0".join(texts)
        if not any(first in joined for first in self._firsts):
            return False
        return any(spelling in joined for spelling in self.ids)

    def split(self, text: str) -> list[str]:
        """`text` cut at its control tokens: ordinary text and control spellings in turn, ordinary text
        first."""
        return self._pattern.split(text)

    def protect(self, value: Any, sentinel: str) -> Any:
        """A copy of `value` (strings, lists, mappings with their keys) in which no control spelling is
        whole."""
        if isinstance(value, str):
            while self._pattern.search(value):  # breaking one spelling can leave another that overlapped it
                value = self._pattern.sub(lambda match: match[0][0] + sentinel + match[0][1:], value)
            return value
        if isinstance(value, Mapping):
            return {self.protect(k, sentinel): self.protect(v, sentinel) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(item, sentinel) for item in value]
        return value


def choose_sentinel(texts: Iterable[str]) -> str:
    """A private-use character that occurs in none of `texts`, neither itself nor as a JSON escape."""
    joined = "\0".join(texts)
    lowered = joined.lower()
    for code in range(0xE000, 0xF900):
        if chr(code) not in joined and f"\\u{code:04x}" not in lowered:
            return chr(code)
    raise DataError("the text uses every private-use character of Unicode; remove those that mean nothing")


def remove_sentinel(text: str, sentinel: str) -> str:
    """`text` as it was before `protect`; templates that write JSON in ASCII have escaped the sentinel."""
    return text.replace(sentinel, "").replace(f"\\u{ord(sentinel):04x}", "")


def plain_data(value: Any, strings: list[str], where: str = "messages") -> Any:
    """A copy of `value` in plain JSON types, the only ones a foreign template is given. Its strings (also
    keys) are appended to `strings`. `DataError` names the place of anything else."""
    if isinstance(value, str):
        strings.append(str(value))
        return strings[-1]
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        keys = [plain_data(key, strings, where) for key in value]
        return {key: plain_data(value[key], strings, f"{where}.{key}") for key in keys}
    if isinstance(value, list | tuple):
        return [plain_data(item, strings, f"{where}[{i}]") for i, item in enumerate(value)]
    raise DataError(
        f"{where}: expected JSON data (text, numbers, lists, objects), found {type(value).__name__}"
    )
