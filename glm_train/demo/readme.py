"""The README that lies in the demo folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glm_train.demo.selection import QUESTIONS_TO_TRY
from glm_train.demo.sources import CHATS, ENTITIES

if TYPE_CHECKING:
    from glm_train.demo.folder import Contents

# What the entity labels of the Japanese corpus stand for.
ENTITY_LABELS = {
    "ART": "artifact",
    "DAT": "date",
    "LOC": "place",
    "MON": "amount of money",
    "ORG": "organisation",
    "PER": "percentage",
    "PSN": "person",
    "TIM": "time",
}

_PAGE = """\
# The glm-train demo

Made by `glm-train demo` with seed {seed}, offline. The same command makes the same bytes again.

| path | what | records: train, validation |
|---|---|---|
| `tiny-glm/` | a GLM of {parameters:,} parameters with random weights, in Hugging Face's layout | |
| `chat/*.jsonl` | chats as `messages`: {languages} | {chats} |
| `topics/*.csv` | English questions (`text`) with their category (`label`) | {topics} |
| `entities/*.conll` | Japanese sentences, `token<TAB>tag` a line, tags in IOB2 | {entities} |
| `demo.json` | versions, counts, and a SHA-256 of every file | |

`tiny-glm/` has what a GLM-4 folder has: GLM-4's chat template, its special tokens in its order right after the
base vocabulary, and three stop tokens. Its tokenizer was trained on the texts here.

## Try it

```
glm-train fit quickstart
glm-train generate runs/quickstart --prompt "{first}"
```

The model learns the training chats by heart, so ask what is in them, letter for letter:

{questions}

It does not know the validation chats: other questions, of which nothing can be guessed. So the validation loss rises
while the training loss falls. That is what learning by heart looks like.

## What is in the data

Topics: {labels}.

Entities: {tags}.

Left out while reading the sources:

{dropped}

A question is asked once: where the source has several answers, the first one stays. The texts are what their
authors wrote, mistakes included; they are here to train on, not to look facts up.

## Sources and licences

{sources}
"""


def readme(contents: Contents, seed: int) -> str:
    """The text of README.md."""
    return _PAGE.format(
        seed=seed,
        parameters=contents.parameters,
        languages=", ".join(
            f"{count} {language.capitalize()}" for language, count in contents.languages.items()
        ),
        chats=_pair(contents, "chat", "jsonl"),
        topics=_pair(contents, "topics", "csv"),
        entities=_pair(contents, "entities", "conll"),
        first=QUESTIONS_TO_TRY[0],
        questions="\n".join(f"- {question}" for question in QUESTIONS_TO_TRY),
        labels=", ".join(f"`{label}` {count}" for label, count in contents.labels.items()),
        tags=", ".join(
            f"`{tag}` {ENTITY_LABELS.get(tag, 'other')} {count}" for tag, count in contents.tags.items()
        ),
        dropped="\n".join(f"- {count:,} × {reason}" for reason, count in contents.dropped.items()),
        sources="\n".join(
            f"- `{folders}`: [{source.distribution}]({source.home}) {source.version()}, {source.licence} licence: "
            f"{source.holds}."
            for folders, source in (("chat/`, `topics/", CHATS), ("entities/", ENTITIES))
        ),
    )


def _pair(contents: Contents, folder: str, suffix: str) -> str:
    return ", ".join(f"{contents.rows[f'{folder}/{part}.{suffix}']:,}" for part in ("train", "validation"))
