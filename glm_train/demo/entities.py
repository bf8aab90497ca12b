"""The demo's named entities: Japanese sentences of `hironsancorpus`, one token and its IOB2 tag a line."""

from __future__ import annotations

from collections import Counter

from glm_train.demo import selection
from glm_train.demo.chats import fraction
from glm_train.demo.sources import ENTITIES, read_text
from glm_train.errors import ConfigError

Sentence = list[tuple[str, str]]  # (token, tag)


def read_sentences(dropped: Counter[str]) -> list[Sentence]:
    """Every distinct sentence whose tags are valid IOB2; `dropped` counts the others by reason.

    The source has one token a line, with the token in the first column, its tag in the last and word features
    between them; an empty line ends a sentence.
    """
    path = ENTITIES.folder() / "corpus" / "iob_sents.txt"
    sentences: list[Sentence] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for block in read_text(path, ENTITIES).split("\n\n"):
        columns = [line.split("\t") for line in block.split("\n") if line]
        sentence = [(row[0], row[-1]) for row in columns]
        if not sentence:
            continue
        if any(
            len(row) < 2 or not token or token.split() != [token]
            for row, (token, _) in zip(columns, sentence, strict=True)
        ):
            dropped["sentence with a token that is empty or holds a space"] += 1
        elif not is_iob2([tag for _, tag in sentence]):
            dropped["sentence whose tags are not IOB2"] += 1
        elif tuple(sentence) in seen:
            dropped["repeat of a sentence"] += 1
        else:
            seen.add(tuple(sentence))
            sentences.append(sentence)
    if not sentences:
        raise ConfigError(f"{path}: no tagged sentence in it; is {ENTITIES.distribution!r} intact?")
    return sentences


def is_iob2(tags: list[str]) -> bool:
    """True when every entity opens with `B-` and every `I-` goes on with an entity of its own label."""
    before = "O"
    for tag in tags:
        prefix, _, label = tag.partition("-")
        if tag != "O" and (prefix not in ("B", "I") or not label):
            return False
        if prefix == "I" and before not in (f"B-{label}", f"I-{label}"):
            return False
        before = tag
    return True


def split(sentences: list[Sentence]) -> tuple[list[Sentence], list[Sentence]]:
    """Training and validation sentences, by a hash of the text."""
    train: list[Sentence] = []
    validation: list[Sentence] = []
    for sentence in sentences:
        held_out = fraction(text(sentence)) < selection.ENTITY_VALIDATION_SHARE
        (validation if held_out else train).append(sentence)
    return train, validation


def text(sentence: Sentence) -> str:
    """The sentence as it was written: Japanese puts no space between words."""
    return "".join(token for token, _ in sentence)


def conll(sentences: list[Sentence]) -> str:
    """The sentences in CoNLL form: `token<TAB>tag`, a blank line after each sentence."""
    return "".join("".join(f"{token}\t{tag}\n" for token, tag in sentence) + "\n" for sentence in sentences)
