"""What is learnt, and from which data: a task and its data go together. See `schema.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from glm_train.config.limits import (
    AtLeastOne,
    FilePath,
    Limit,
    NotNegative,
    Processes,
    Refusal,
    Share,
    Text,
    TrainSources,
    ValidationSources,
)

_MESSAGES = "both OpenAI's layout and GLM's own are named messages here"
_SUFFIX = "a file's suffix says how it is written; this key names the layout of its records"
ChatLayout = Annotated[
    Literal["auto", "messages", "sharegpt", "alpaca", "prompt_completion"],
    Refusal(
        dict.fromkeys(("openai", "chatml", "glm", "glm4", "chatglm"), _MESSAGES)
        | dict.fromkeys(("json", "jsonl", "csv", "tsv", "parquet", "arrow"), _SUFFIX)
    ),
]


Labels = Annotated[tuple[Text, ...], Limit("at least two labels", lambda value: len(value) >= 2)]
ClassWeights = Literal["none", "balanced"]
_Single = Literal["val/loss", "val/accuracy", "val/f1", "val/f1_micro", "val/auroc"]
Scheme = Literal["auto", "iob1", "iob2", "iobes", "bilou", "bmes", "plain"]
TokenMetric = Literal["val/f1", "val/f1_micro", "val/loss", "val/accuracy"]
SequenceMetric = Literal[_Single, "val/mse", "val/pearson", "val/spearman"]


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """Next-token prediction on the trained turns of conversations."""

    name: Literal["chat"] = "chat"
    metric: Literal["val/loss", "val/token_accuracy"] = "val/loss"  # what decides which model is best


@dataclass(frozen=True, kw_only=True)
class SequenceClassification:
    """One answer a text: a label, several labels, or numbers."""

    name: Literal["sequence_classification"] = "sequence_classification"
    labels: Labels | None = None  # names in order; null: found in the training data
    problem: Literal["auto", "single_label", "multi_label", "regression"] = "auto"  # auto: by the labels
    class_weights: ClassWeights = "none"  # balanced: rare labels weigh more, as n / (labels * count)
    metric: SequenceMetric | None = None  # decides which model is best; null: val/accuracy, val/f1 or val/mse


@dataclass(frozen=True, kw_only=True)
class TokenClassification:
    """A label for each word: named entities, or other tags."""

    name: Literal["token_classification"] = "token_classification"
    labels: Labels | None = None  # in order, such as O, B-PER, I-PER; null: found in the training data
    class_weights: ClassWeights = "none"  # balanced: rare labels weigh more, as n / (labels * count)
    metric: TokenMetric = "val/f1"  # what decides which model is best


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What all data settings share: which files, how many tokens, how they are prepared."""

    train: TrainSources  # one file, folder or hub id, or a list of them; `name:2` stands twice in an epoch
    validation: ValidationSources | None = None  # likewise; null: none, but see validation_fraction
    validation_fraction: Share | None = None  # share of the training examples held out for validation
    on_error: Literal["error", "skip"] = "error"  # of a faulty record; skip: left out, counted and reported
    max_length: AtLeastOne = 2048  # tokens of one example
    packing: bool = True  # fill microbatches up to batch.tokens; false: batch.documents each, or one
    # Processes beside the main one that prepare large files and load batches; null: every core prepares, none loads.
    workers: Processes | None = None  # null: see above
    streaming: bool = False  # write no tokens to disk: read and encode each record again when its turn comes
    cache_dir: FilePath | None = None  # where prepared examples are kept; null: the user's cache directory


@dataclass(frozen=True, kw_only=True)
class ChatData(DataSettings):
    """Conversations: which files, how they become tokens, which tokens are trained."""

    name: Literal["chat"] = "chat"
    format: ChatLayout = "auto"  # layout of a record; auto: recognised, each record for itself
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"  # which turns carry the loss
    stop_token: Literal["role", "endoftext"] = "role"  # trained at the end of a turn; role: the next role's
    truncation: Literal["oldest_turns", "drop", "error"] = "oldest_turns"  # of conversations over max_length


@dataclass(frozen=True, kw_only=True)
class SequenceData(DataSettings):
    """Texts with a label each."""

    name: Literal["sequence"] = "sequence"
    text_key: Text = "text"  # the key, or column, of the text
    pair_key: Text | None = None  # of a second text; null: `text_pair` where records have it
    label_key: Text = "label"  # of the label
    label_separator: Text | None = None  # between several labels in one text; null: lists only
    truncation: Literal["end", "start", "drop", "error"] = "end"  # which end of a text over max_length goes


@dataclass(frozen=True, kw_only=True)
class TokenData(DataSettings):
    """Words with a tag each: CoNLL columns, `tokens` with `tags`, or a `text` with `entities`."""

    name: Literal["tokens"] = "tokens"
    format: Literal["auto", "conll", "tokens", "entities"] = "auto"  # conll: columns, whatever the suffix
    token_column: int = 0  # of CoNLL: which column has the word; counted from 0, from the end where negative
    tag_column: int = -1  # of CoNLL: which column has the tag
    separator: Literal["auto", "tab", "space", "comma", "semicolon"] = "auto"  # of CoNLL: between columns
    scheme: Scheme = "auto"  # how tags mark where entities begin; plain: they do not, such as parts of speech
    overlap: NotNegative | None = None  # tokens that windows of a long text share; null: max_length / 4
    label_pieces: Literal["first", "all"] = "first"  # which tokens of a word are trained


Task = ChatTask | SequenceClassification | TokenClassification
Data = ChatData | SequenceData | TokenData
DATA_OF = {"chat": "chat", "sequence_classification": "sequence", "token_classification": "tokens"}
