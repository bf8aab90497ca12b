"""Scores of tagged sentences, the same numbers as seqeval's.

seqeval builds several objects a word; these functions count spans, which takes a small share of its time. A test holds
both equal on random tags, impossible ones included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

_OUTSIDE = "O"
Sentences = Sequence[Sequence[str]]


def entity_scores(gold: Sentences, predicted: Sentences) -> dict[str, float]:
    """Precision, recall and F1 of entities in IOB2 tags: an entity counts where both its words and its type are right.

    `gold` and `predicted` hold the tags of the same sentences. The numbers are those of
    `seqeval.metrics.classification_report(mode="strict", scheme=IOB2)`. As there, an I- that goes on with no entity of
    its type belongs to none: `O I-LOC I-LOC` has no entity, `B-PER I-LOC` only the person of one word. What has nothing
    to divide by is 0.

    Returns:
        `precision recall f1` over all entities (micro), `f1_macro` (the mean over types), `support` (gold entities),
        `accuracy` (the share of words with the right tag), and `precision/TYPE recall/TYPE f1/TYPE support/TYPE` of
        each type that occurs on either side, in sorted order.
        Where a tag is neither `O` nor has B- or I-, tags are classes of words (parts of speech), and this is
        `word_scores`.

    Raises:
        ValueError: the two differ in their numbers of sentences or words.
    """
    _check_lengths(gold, predicted)
    if not all(_is_tag(tag) for side in (gold, predicted) for tags in side for tag in set(tags)):
        return word_scores(gold, predicted)
    right: Counter[str] = Counter()
    made: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        gold_spans, predicted_spans = set(_spans(gold_tags)), set(_spans(predicted_tags))
        wanted.update(type_ for *_, type_ in gold_spans)
        made.update(type_ for *_, type_ in predicted_spans)
        right.update(type_ for *_, type_ in gold_spans & predicted_spans)
    types = sorted(wanted.keys() | made.keys())
    each = {type_: _ratios(right[type_], made[type_], wanted[type_]) for type_ in types}
    scores = _ratios(right.total(), made.total(), wanted.total())
    scores["f1_macro"] = float(np.mean([one["f1"] for one in each.values()])) if each else 0.0
    scores["accuracy"] = _accuracy(gold, predicted)
    for type_, one in each.items():
        scores.update({f"{name}/{type_}": value for name, value in one.items()})
    return scores


def word_scores(gold: Sentences, predicted: Sentences) -> dict[str, float]:
    """Scores of words that each have one class, as scikit-learn's over all of them.

    Returns:
        `accuracy`; `f1` (macro: the mean over the classes that occur on either side) and `f1_micro`, which equals the
        accuracy; `support` (words), and `precision/NAME recall/NAME f1/NAME support/NAME` of each such class.
    """
    _check_lengths(gold, predicted)
    pairs: Counter[tuple[str, str]] = Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        pairs.update(zip(gold_tags, predicted_tags, strict=True))
    made: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for (of_gold, of_prediction), count in pairs.items():
        wanted[of_gold] += count
        made[of_prediction] += count
    names = sorted(wanted.keys() | made.keys())
    each = {name: _ratios(pairs[name, name], made[name], wanted[name]) for name in names}
    accuracy = _accuracy(gold, predicted)
    scores = {
        "accuracy": accuracy,
        "f1": float(np.mean([one["f1"] for one in each.values()])) if each else 0.0,
        "f1_micro": accuracy,
        "support": float(wanted.total()),
    }
    for name, one in each.items():
        scores.update({f"{measure}/{name}": value for measure, value in one.items()})
    return scores


def tag_confusion(gold: Sentences, predicted: Sentences) -> tuple[np.ndarray, list[str]]:
    """Which type was taken for which, word by word: counts (n, n) int64, `[gold, predicted]`, and the n names.

    B- and I- of a type count as that type; `O` comes first, the others are sorted.
    """
    _check_lengths(gold, predicted)
    pairs: Counter[tuple[str, str]] = Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        pairs.update(zip(gold_tags, predicted_tags, strict=True))
    merged = {(_type(one), _type(other)): 0 for one, other in pairs}
    for (one, other), count in pairs.items():
        merged[_type(one), _type(other)] += count
    names = sorted({name for pair in merged for name in pair}, key=lambda name: (name != _OUTSIDE, name))
    place = {name: index for index, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    for (one, other), count in merged.items():
        counts[place[one], place[other]] = count
    return counts, names


def _spans(tags: Sequence[str]) -> Iterable[tuple[int, int, str]]:
    """The entities of IOB2 tags, impossible ones included: (start, end, type)."""
    start, type_ = -1, ""
    for word, tag in enumerate(tags):
        if start >= 0 and tag[0] == "I" and tag[2:] == type_:
            continue
        if start >= 0:
            yield start, word, type_
        start, type_ = (word, tag[2:]) if tag[0] == "B" else (-1, "")
    if start >= 0:
        yield start, len(tags), type_


def _is_tag(tag: str) -> bool:
    return tag == _OUTSIDE or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def _type(tag: str) -> str:
    return tag[2:] if tag[:2] in ("B-", "I-") and len(tag) > 2 else tag


def _ratios(right: int, made: int, wanted: int) -> dict[str, float]:
    precision, recall = right / made if made else 0.0, right / wanted if wanted else 0.0
    both = precision + recall
    f1 = 2 * precision * recall / both if both else 0.0
    return {"precision": precision, "recall": recall, "f1": f1, "support": float(wanted)}


def _accuracy(gold: Sentences, predicted: Sentences) -> float:
    words = sum(map(len, gold))
    right = sum(
        one == other
        for tags, others in zip(gold, predicted, strict=True)
        for one, other in zip(tags, others, strict=True)
    )
    return right / words if words else 0.0


def _check_lengths(gold: Sentences, predicted: Sentences) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold sentences, {len(predicted)} predicted")
    for index, (tags, others) in enumerate(zip(gold, predicted, strict=True)):
        if len(tags) != len(others):
            raise ValueError(f"sentence {index}: {len(tags)} gold tags, {len(others)} predicted")
