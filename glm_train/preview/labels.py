"""What a run of classification would train on: words or texts with their labels, and how often each label comes.

    ⟦Anna Lee⟧PER lives in ⟦New York⟧LOC .          tokens: words without a mark are O
    A film without end. -> negative                 sequences: single label; several labels; numbers

In a window of a long document, the words that another window answers are context, in grey.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glm_train.data.store import CONTINUES, IGNORE, ExampleStore
from glm_train.preview.label_report import OUTSIDE, SEVERAL, SINGLE, TOKENS, describe, type_of
from glm_train.text.tokenizer import GlmTokenizer
from glm_train.text.words import split_words

CONTEXT = "context"
_COLOURS = (32, 33, 34, 35, 36, 31, 92, 93, 94, 95, 96, 91)  # of a terminal


@dataclass(frozen=True)
class LabelledExample:
    """One example as it would be trained: token ids (T,), labels as the task has them, and where it comes from.

    `part` says which window of its record it is.
    """

    split: str
    index: int
    file: str
    line: int
    part: int
    input_ids: np.ndarray
    labels: np.ndarray


class LabelPreview:
    """The examples of a run of classification, and what can be said about them.

    Args:
        names: the classes in order, or the numbers' names.
        problem: `tokens`, `single_label`, `multi_label` or `regression`.
        leakage: the largest share of validation examples that may also be in training.
    """

    def __init__(
        self,
        tokenizer: GlmTokenizer,
        names: Sequence[str],
        problem: str,
        train: ExampleStore,
        validation: ExampleStore | None = None,
        leakage: float = 0.01,
    ) -> None:
        self.tokenizer, self.names, self.problem = tokenizer, tuple(names), problem
        self.train, self.validation = train, validation
        kinds = [type_of(name) for name in self.names if type_of(name) != OUTSIDE]
        self._place = {kind: place for place, kind in enumerate(dict.fromkeys(kinds))}
        self.report = describe(self._stores(), self.names, problem, leakage)

    def examples(self, limit: int | None = None) -> Iterator[LabelledExample]:
        """The first `limit` examples of training, then of validation; all where it is None."""
        for name, store in self._stores().items():
            for index in range(len(store) if limit is None else min(limit, len(store))):
                file, line = store.source(index)
                yield LabelledExample(name, index, file, line, store.part(index), *store[index])

    def parts(self, example: LabelledExample) -> list[tuple[str, str]]:
        """The example's text in runs of one kind: (kind, text). A kind is CONTEXT, `O`, or a type or label."""
        if self.problem != TOKENS:
            return [(CONTEXT, self.tokenizer.decode(example.input_ids))]
        found: list[tuple[str, str]] = []

        def add(kind: str, text: str, *, goes_on: bool) -> None:
            if goes_on and found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + text)
            elif text:
                found.append((kind, text))

        for word, name in self._words(example):
            kind = CONTEXT if name is None else type_of(name)
            inside = name is not None and name[:2] == "I-" and bool(found) and found[-1][0] == kind
            if inside or kind in (CONTEXT, OUTSIDE):
                add(kind, word, goes_on=True)
            else:
                blank = word[: len(word) - len(word.lstrip())]
                add(OUTSIDE, blank, goes_on=True)
                add(kind, word[len(blank) :], goes_on=False)
        return found

    def answer(self, example: LabelledExample) -> str:
        """The label of a text, in words; empty for token classification, whose labels are in its parts."""
        return "" if self.problem == TOKENS else ", ".join(self._answers(example)) or "none"

    def kinds(self, example: LabelledExample) -> list[str]:
        """Of each token: its class, or CONTEXT where it is not labelled. Of a text: CONTEXT."""
        if self.problem != TOKENS:
            return [CONTEXT] * len(example.input_ids)
        classes = np.where(example.labels >= CONTINUES, example.labels - CONTINUES, example.labels)
        return [CONTEXT if label == IGNORE else self.names[label] for label in classes.tolist()]

    def line(self, example: LabelledExample, *, colour: bool) -> str:
        """The example for a terminal."""
        text = "".join(self._painted(kind, part, colour) for kind, part in self.parts(example))
        answer = self.answer(example)
        shown = f"\x1b[1;{self._code(answer)}m{answer}\x1b[0m" if colour and answer else answer
        return f"{text} -> {shown}" if answer else text

    def html(self, example: LabelledExample) -> str:
        """The example as the inside of a `<pre>`; it brings its colours with it."""
        text = "".join(self._marked(kind, part) for kind, part in self.parts(example))
        answer = self.answer(example)
        return f"{text} → {self._marked(answer, answer, name=False)}" if answer else text

    def json(self, example: LabelledExample) -> dict[str, Any]:
        """The example as JSON values: its tokens, and its words or its text with their labels."""
        ids = example.input_ids.tolist()
        line: dict[str, Any] = {
            "split": example.split,
            "file": example.file,
            "line": example.line,
            "part": example.part,
            "input_ids": ids,
            "labels": example.labels.tolist(),
            "tokens": [self.tokenizer.id_to_token(id_) for id_ in ids],
        }
        if self.problem == TOKENS:
            line["words"] = [
                {"text": word.strip(), "label": name} for word, name in self._words(example) if name
            ]
        else:
            line["label"] = self._answers(example)
        return line

    def _stores(self) -> dict[str, ExampleStore]:
        return {"train": self.train, **({} if self.validation is None else {"validation": self.validation})}

    def _words(self, example: LabelledExample) -> list[tuple[str, str | None]]:
        """The words in order, each with the white space before it, and its label; None for those of other windows."""
        ids = example.input_ids.tolist()
        firsts = np.flatnonzero((example.labels >= 0) & (example.labels < CONTINUES)).tolist()
        if not firsts:
            return [(self.tokenizer.decode(ids), None)]
        pieces = [
            self.tokenizer.decode(ids[a:b]) for a, b in zip([0, *firsts], [*firsts, len(ids)], strict=True)
        ]
        before, words = pieces[0], pieces[1:]
        found: list[tuple[str, str | None]] = []
        for text, first in zip(words, firsts, strict=True):
            found.append((text, self.names[example.labels[first]]))
        last, name = found.pop()
        end = _end_of_first_word(last)
        found.append((last[:end], name))
        # White space that is a piece of its own goes from the end of a word to the start of the next.
        moved, held = [], before if not before.strip() else ""
        for text, name in found:
            kept = text.rstrip() or text
            moved.append((held + kept, name))
            held = text[len(kept) :]
        rest = held + last[end:]
        return [
            *([(before, None)] if before.strip() else []),
            *moved,
            *([(rest, None)] if rest.strip() else []),
        ]

    def _answers(self, example: LabelledExample) -> list[str]:
        if self.problem == SINGLE:
            return [self.names[int(example.labels[0])]]
        if self.problem == SEVERAL:
            return [name for name, flag in zip(self.names, example.labels, strict=True) if flag]
        return [f"{value:g}" for value in np.ascontiguousarray(example.labels).view(np.float32)]

    def _code(self, kind: str) -> int:
        return _COLOURS[self._place.get(kind, 0) % len(_COLOURS)]

    def _painted(self, kind: str, text: str, colour: bool) -> str:
        if self.problem != TOKENS or kind == OUTSIDE:
            return text
        if kind == CONTEXT:
            return f"\x1b[2m{text}\x1b[0m" if colour else text
        if colour:
            return f"\x1b[1;4;{self._code(kind)}m{text}\x1b[0m\x1b[{self._code(kind)}m/{kind}\x1b[0m"
        return f"⟦{text}⟧{kind}"

    def _marked(self, kind: str, text: str, *, name: bool = True) -> str:
        shown = html.escape(text)
        if kind == OUTSIDE or (kind == CONTEXT and self.problem != TOKENS):
            return shown
        if kind == CONTEXT:
            return f"<span class=context>{shown}</span>"
        hue = self._place.get(kind, 0) * 137 % 360  # neighbours far apart on the circle
        sub = f"<sub>{html.escape(kind)}</sub>" if name else ""
        return f'<span style="background:hsl({hue} 70% 50% / .3);border-radius:3px">{shown}{sub}</span>'


def _end_of_first_word(text: str) -> int:
    """Where the last word that a window answers ends; what follows it is context, of which no label tells."""
    found = re.match(r"\s*\S+", text)
    end = found.end() if found else len(text)
    words = split_words(text[:end])
    # Where words have no spaces between them, one is a character.
    return words[0][1] if words and ord(text[words[0][0]]) >= 0x2E80 else end
