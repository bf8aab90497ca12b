"""Does what would be trained look like what the model must write? Read from the prepared tokens alone.

The rules say nothing of how the labels were made, so that they also find mistakes of the code that made them. One
trained span, as it must be (`*` trained):

    <|assistant|>  \\n*  Hello*  <|user|>*  \\n  ...
                   opens with text          ends with a stop token, and nothing of the next turn is trained
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from glm_train.data.store import IGNORE, ExampleStore

_EXAMPLES_AT_ONCE = 512
_SHOWN = 5


@dataclass(frozen=True)
class TurnTokens:
    """The ids that stand between turns.

    `stops` end a trained turn; `hand_over` is the assistant's own role token, with which it hands over to itself;
    `roles` are all role tokens and prefixes, of which the others are never trained inside a span.
    """

    stops: frozenset[int]
    hand_over: int | None
    roles: frozenset[int]
    user: int | None = None  # opens a question


@dataclass
class MaskCheck:
    """What the labels of a store hold. Each rule's list has the indices of the first examples that break it."""

    spans: int = 0
    stops: Counter[int] = field(default_factory=Counter)  # trained stop labels by id
    prompts: list[bytes] = field(default_factory=list)  # of each example, where they were asked for
    broken: dict[str, int] = field(default_factory=dict)  # rule -> examples
    first: dict[str, list[int]] = field(default_factory=dict)

    def _break(self, rule: str, examples: Iterable[int]) -> None:
        found = sorted(set(examples))
        if found:
            self.broken[rule] = self.broken.get(rule, 0) + len(found)
            places = self.first.setdefault(rule, [])
            places += found[: _SHOWN - len(places)]


UNTRAINED = "nothing is trained"
HEADER = "a turn's header is trained"
OTHERS_TEXT = "text of another role is trained"
NO_STOP = "a trained answer has no stop token"


def check_masks(
    store: ExampleStore, turns: TurnTokens, decode: Callable[[list[int]], str] | None = None
) -> MaskCheck:
    """Look at every example of `store`. A last answer without its stop token counts as broken here too: the caller
    knows how many were cut on purpose. With `decode` (ids -> text) the prompts are kept for `find_duplicates`."""
    check = MaskCheck()
    for begin in range(0, len(store), _EXAMPLES_AT_ONCE):
        indices = range(begin, min(begin + _EXAMPLES_AT_ONCE, len(store)))
        rows = [store[i] for i in indices]
        labels = [row[1] for row in rows]
        if decode is not None:
            check.prompts += [_prompt_digest(*row, turns, decode) for row in rows]
        _check_rows(check, np.concatenate(labels), np.array([len(row) for row in labels]), begin, turns)
    return check


def _check_rows(
    check: MaskCheck, labels: np.ndarray, lengths: np.ndarray, begin: int, turns: TurnTokens
) -> None:
    """Rows end to end: a span starts where a trained token follows an untrained one or opens a row."""
    owner = np.repeat(np.arange(begin, begin + len(lengths)), lengths)
    edges = np.cumsum(lengths)
    trained = labels != IGNORE
    trained[np.concatenate([[0], edges[:-1]])] = False  # the first token of a document follows nothing
    before = np.concatenate([[False], trained[:-1]])
    after = np.concatenate([trained[1:], [False]])
    after[edges - 1] = False
    starts, ends = trained & ~before, trained & ~after
    stop = np.isin(labels, list(turns.stops)) & trained
    role = np.isin(labels, list(turns.roles)) & trained
    hand_over = labels == turns.hand_over if turns.hand_over is not None else np.zeros_like(role)
    check.spans += int(starts.sum())
    check.stops.update(
        dict(zip(*(a.tolist() for a in np.unique(labels[stop], return_counts=True)), strict=True))
    )
    check._break(UNTRAINED, set(range(begin, begin + len(lengths))) - set(owner[trained].tolist()))
    check._break(HEADER, owner[starts & role].tolist())
    check._break(OTHERS_TEXT, owner[role & ~starts & ~ends & ~hand_over].tolist())
    check._break(NO_STOP, owner[ends & ~stop & ~hand_over].tolist())


def _prompt_digest(
    ids: np.ndarray, labels: np.ndarray, turns: TurnTokens, decode: Callable[[list[int]], str]
) -> bytes:
    """8 bytes that two examples share where they ask the same: what stands between the first question's header and
    the first trained token, without regard to case and white space. System message and tools have no part in it.

        [gMASK] <sop> <|system|> \\n You help. <|user|> \\n Hi there <|assistant|> \\n* Hello* ...
                                                 ----------- digested
    """
    opened = np.flatnonzero(ids == turns.user)
    begin = int(opened[0]) + 1 if len(opened) else 0
    later = np.flatnonzero(labels[begin:] != IGNORE)
    roles = [i for i, id_ in enumerate(ids[begin:].tolist()) if id_ in turns.roles]
    # With the header before it; where all text is trained, the question itself.
    end = begin + (int(later[0]) if len(later) and later[0] else roles[0] if roles else len(ids))
    asked = " ".join(decode(ids[begin:end].tolist()).casefold().split())
    return hashlib.blake2b(asked.encode(), digest_size=8).digest()


@dataclass(frozen=True)
class Duplicates:
    """Examples with the same tokens: further copies inside training, and validation examples that training has too.
    `same_prompt` are validation examples that training has with another answer, system message or spelling."""

    in_training: int
    in_both: int
    validation: int
    first_in_both: tuple[int, ...]  # indices into validation
    same_prompt: int = 0
    first_same_prompt: tuple[int, ...] = ()  # indices into validation

    @property
    def share(self) -> float:
        """Of the validation examples, how many training has too."""
        return self.in_both / self.validation if self.validation else 0.0


def find_duplicates(
    train: ExampleStore,
    validation: ExampleStore | None,
    prompts: tuple[Sequence[bytes], Sequence[bytes]] = ((), ()),
) -> Duplicates:
    """Compare the examples by a hash of their token ids, and their prompts where those of both are given."""
    salt = train.salt
    seen = Counter(train.digest(i, salt) for i in range(len(train)))
    total = len(validation) if validation is not None else 0
    both = [i for i in range(total) if validation is not None and validation.digest(i, salt) in seen]
    asked, copies = set(prompts[0]), set(both)
    alike = [i for i, prompt in enumerate(prompts[1]) if prompt in asked and i not in copies]
    return Duplicates(
        len(train) - len(seen), len(both), total, tuple(both[:_SHOWN]), len(alike), tuple(alike[:_SHOWN])
    )
