"""What a run would train on: its examples token by token, and a report with the rules that they break.

Nothing here imports torch: it reads the prepared examples that `fit` would read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from glm_train.bar import progress_bar
from glm_train.build_data import build_tokenizer, prepare_data
from glm_train.data.encode import FAULTY
from glm_train.data.mask_checks import (
    NO_STOP,
    UNTRAINED,
    MaskCheck,
    TurnTokens,
    check_masks,
    find_duplicates,
)
from glm_train.data.store import IGNORE, ExampleStore
from glm_train.data.weights import weigh
from glm_train.preview.steps import Packing, leakage_faults, packing_of
from glm_train.run_plan import build_plan
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

CONTEXT, TRAINED, STOP = "context", "trained", "stop"
_BINS = 12


@dataclass(frozen=True)
class SplitReport:
    """One store of examples. `histogram` has (shortest, longest, examples) a line, in tokens."""

    records: int
    examples: int
    tokens: int
    trained: int
    longest: int
    answers: int  # trained spans
    stops: dict[str, int]  # trained stop tokens by spelling
    shortened: int
    dropped_messages: int
    dropped_tokens: int
    cut: int
    dropped: dict[str, int]
    histogram: list[tuple[int, int, int]]
    losses: list[str] = field(default_factory=list)  # what of the files is not trained on, in words

    @property
    def share(self) -> float:
        """Of the tokens, how many are trained."""
        return self.trained / self.tokens if self.tokens else 0.0


@dataclass(frozen=True)
class Report:
    """The whole preview; `faults` are the broken rules, one line each."""

    train: SplitReport
    validation: SplitReport | None
    duplicates_in_training: int
    validation_also_in_training: int
    validation_prompts_in_training: int  # of further examples: the same question with another answer
    first_prompts_in_training: list[str]  # file:line
    packing: Packing
    faults: list[str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Example:
    """One example as it would be trained: token ids (T,), unshifted labels (T,), and where it comes from."""

    split: str
    index: int
    file: str
    line: int
    input_ids: np.ndarray
    labels: np.ndarray


class Preview:
    """The examples of a run and what can be said about them. `leakage` is the largest share of validation examples
    that may also be in training."""

    def __init__(self, config: RunConfig, leakage: float = 0.01) -> None:
        self.tokenizer, model_config = build_tokenizer(config)
        with progress_bar() as progress:
            data = prepare_data(config, self.tokenizer, model_config, progress)
        self.train, self.validation = data.train, data.validation
        self.turns = turn_tokens(self.tokenizer)
        weighed = weigh(self.train, data.weights, config.seed)
        plan = build_plan(config, weighed)
        everything = getattr(config.data, "train_on", "") == "all"
        split = config.data.validation is None
        stores = {"train": self.train, **({} if self.validation is None else {"validation": self.validation})}
        decode = self.tokenizer.decode if self.validation is not None else None
        checks = {name: check_masks(store, self.turns, decode) for name, store in stores.items()}
        prompts = checks["train"].prompts, checks["validation"].prompts if "validation" in checks else []
        duplicates = find_duplicates(self.train, self.validation, prompts)
        faults = [
            fault
            for name, store in stores.items()
            for fault in _mask_faults(
                name, store, checks[name], everything, first=name == "train" or not split
            )
        ]
        faults += leakage_faults(duplicates, self.validation, leakage)
        reports = {name: self._describe(store, checks[name]) for name, store in stores.items()}
        self.report = Report(
            reports["train"],
            reports.get("validation"),
            duplicates.in_training,
            duplicates.in_both,
            duplicates.same_prompt,
            [":".join(map(str, stores["validation"].source(i))) for i in duplicates.first_same_prompt],
            packing_of(plan, weighed),
            faults,
        )

    def examples(self, limit: int | None = None) -> Iterator[Example]:
        """The first `limit` examples of training, then of validation; all where it is None."""
        for name, store in (("train", self.train), ("validation", self.validation)):
            for index in range(min(len(store), len(store) if limit is None else limit) if store else 0):
                assert store is not None
                yield Example(name, index, *store.source(index), *store[index])

    def parts(self, example: Example) -> list[tuple[str, str]]:
        """The example's text in runs of one kind: (kind, text), with kind CONTEXT, TRAINED or STOP."""
        kinds = self.kinds(example)
        ids = np.where(example.labels == IGNORE, example.input_ids, example.labels).tolist()
        runs = groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0])
        return [(kind, self.tokenizer.decode([id_ for _, id_ in run])) for kind, run in runs]

    def kinds(self, example: Example) -> list[str]:
        """Of each token: context, trained, or a trained stop token."""
        ends = self.turns.stops | ({self.turns.hand_over} if self.turns.hand_over is not None else set())
        return [
            CONTEXT if label == IGNORE or position == 0 else STOP if label in ends else TRAINED
            for position, label in enumerate(example.labels.tolist())
        ]

    def _describe(self, store: ExampleStore, check: MaskCheck) -> SplitReport:
        made = store.report
        return SplitReport(
            records=made.records,
            examples=len(store),
            tokens=int(store.lengths.sum()),
            trained=int(store.trained.sum()),
            longest=int(store.lengths.max()),
            answers=check.spans,
            stops={self.tokenizer.id_to_token(i) or str(i): n for i, n in check.stops.most_common()},
            shortened=made.shortened,
            dropped_messages=made.dropped_messages,
            dropped_tokens=made.dropped_tokens,
            cut=made.cut,
            dropped=dict(made.dropped),
            histogram=histogram(store.lengths),
            losses=made.losses(),
        )


def turn_tokens(tokenizer: GlmTokenizer) -> TurnTokens:
    """The tokens between turns, as far as the tokenizer has them."""
    names = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "[gMASK]", "<sop>")
    ids = {name: tokenizer.token_to_id(name) for name in names}
    known = frozenset(id_ for id_ in ids.values() if id_ is not None)
    return TurnTokens(frozenset(tokenizer.stop_token_ids), ids["<|assistant|>"], known, ids["<|user|>"])


def histogram(lengths: np.ndarray) -> list[tuple[int, int, int]]:
    """(from, to, examples) in bins that double, both ends inclusive; the outer empty ones are left out."""
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(int)
    low, high = int(powers.min()), int(powers.max())
    low = max(low, high - _BINS + 1)
    counts = np.bincount(np.maximum(powers, low) - low, minlength=high - low + 1)
    return [
        (1 if i == 0 and int(lengths.min()) < 2**low else 2 ** (low + i), 2 ** (low + i + 1) - 1, int(n))
        for i, n in enumerate(counts)
    ]


def _mask_faults(
    name: str, store: ExampleStore, check: MaskCheck, everything: bool, first: bool
) -> list[str]:
    """The rules that a store breaks. Under train_on=all headers and other roles are trained on purpose."""
    faults = []
    for rule, count in check.broken.items():
        # Those that were cut for length have no stop token on purpose, and are counted elsewhere.
        count -= store.report.cut if rule == NO_STOP else 0
        if count > 0 and not (everything and rule != UNTRAINED):
            places = ", ".join(":".join(map(str, store.source(i))) for i in check.first[rule])
            faults.append(f"{name}: {rule} in {count:,} examples (first: {places})")
    if first:  # a part split off the same files has the same report
        for reason, found in store.report.dropped_at.items():
            if "trained" in reason and not reason.startswith(FAULTY):
                count = store.report.dropped[reason]
                faults.append(f"{name}: {reason}: {count:,} records (first: {', '.join(found)})")
    return faults
