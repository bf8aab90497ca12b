"""Settings become tokenizer and examples: the part of building a run that needs neither torch nor Lightning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from glm_train.bar import Progress, silent
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.config.schema import ChatData, ChatTask, SequenceClassification, SequenceData, TokenData
from glm_train.data.encode import usable_cores
from glm_train.data.prepare import PrepareOptions, prepare_chat
from glm_train.data.sequence_examples import prepare_sequence
from glm_train.data.sequence_labels import discover_labels
from glm_train.data.sequence_records import SequenceKeys
from glm_train.data.sequence_targets import SequenceLabels
from glm_train.data.sources import files_of, find_sources
from glm_train.data.split import split_salt, split_validation
from glm_train.data.store import ExampleStore
from glm_train.data.token_classes import TokenLabels, listed
from glm_train.data.token_examples import prepare_tokens
from glm_train.data.token_files import TokenReader
from glm_train.data.token_labels import discover_tags
from glm_train.data.weights import weigh
from glm_train.errors import ConfigError
from glm_train.model.config import GlmConfig
from glm_train.tagging.schemes import is_iob2
from glm_train.text.tokenizer import GlmTokenizer

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


# By `PreparedData.problem`: the scores that validation gives, the one first that decides by default.
METRICS = {
    "chat": ("val/loss", "val/token_accuracy"),
    "tokens": ("val/f1", "val/loss", "val/accuracy", "val/f1_micro"),
    "single_label": ("val/accuracy", "val/f1", "val/f1_micro", "val/auroc", "val/loss"),
    "multi_label": ("val/f1", "val/f1_micro", "val/accuracy", "val/auroc", "val/loss"),
    "regression": ("val/mse", "val/pearson", "val/spearman", "val/loss"),
}
_KINDS = {
    "chat": "chats",
    "tokens": "labels of words",
    "single_label": "single labels",
    "multi_label": "several labels a text",
    "regression": "numbers",
}
_WITHOUT_WEIGHTS = ("multi_label", "regression")


class RunLabels(Protocol):
    """The outputs of a classification head."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def config_changes(self) -> dict[str, Any]:
        """What the model's config is to say of them."""
        ...


@dataclass(frozen=True)
class PreparedData:
    """The examples of a run, what its labels are (None for chat), and the weight of each training file."""

    train: ExampleStore
    validation: ExampleStore | None
    weights: dict[Path, float]
    labels: RunLabels | None = None

    @property
    def problem(self) -> str:
        """What a label is: `chat`, `tokens`, or what `SequenceLabels.problem` says."""
        return problem_of(self.labels)


def problem_of(labels: RunLabels | None) -> str:
    """`chat`, `tokens`, or what `SequenceLabels.problem` says."""
    if isinstance(labels, SequenceLabels):
        return labels.problem
    return "tokens" if labels is not None else "chat"


def build_tokenizer(config: RunConfig) -> tuple[GlmTokenizer, GlmConfig]:
    """The tokenizer, checked to belong to the model's config."""
    _refuse_no_base(config.model.path)
    model_config = GlmConfig.from_pretrained(config.model.path, **config_changes(config))
    tokenizer = GlmTokenizer.from_pretrained(config.model.path)
    check_vocabulary(model_config, tokenizer)
    return tokenizer, model_config


def _refuse_no_base(name: str) -> None:
    """A folder of another kind than a model's, where it can be said which was meant."""
    path = Path(name)
    if not path.is_dir() or (path / "config.json").exists():
        return
    if (path / "adapter_config.json").exists():
        raise ConfigError(
            f"model.path={name}: this is an adapter, and a run begins with a model. Merge the two with"
            f" `glm-train export {name} FOLDER`, and name FOLDER"
        )
    if (path / "config.yaml").exists() and (path / "model").is_dir():
        raise ConfigError(f"model.path={name}: this is the folder of a run. Name its model, {path / 'model'}")


def config_changes(config: RunConfig) -> dict[str, Any]:
    """What the run changes in the folder's config.json, its labels apart."""
    theta = config.model.rope_theta
    changes: dict[str, Any] = {} if theta is None else {"rope_theta": theta}
    if config.task.name != "chat":
        changes["bidirectional"] = config.model.bidirectional
    return changes


def build_data(
    config: RunConfig, tokenizer: GlmTokenizer, model_config: GlmConfig, progress: Progress = silent
) -> PreparedData:
    """Training and validation examples, tokenised, from the cache where it has them.

    Training examples stand as often as the weights of their files say.
    """
    data = prepare_data(config, tokenizer, model_config, progress)
    return replace(data, train=weigh(data.train, data.weights, config.seed))


def prepare_data(
    config: RunConfig, tokenizer: GlmTokenizer, model_config: GlmConfig, progress: Progress = silent
) -> PreparedData:
    """Training and validation examples, each once, and the weight of each training file."""
    settings = config.data
    # All files of both are found before the first is read: that one may take an hour.
    streaming = settings.streaming
    find = partial(find_sources, streaming=streaming, any_suffix=getattr(settings, "format", "") == "conll")
    sources = find(settings.train, split="train")
    held_out = find(settings.validation or (), split="validation")
    files = files_of(sources)
    labels = find_labels(config, model_config, files, progress)
    check_task(config, labels)
    prepare = partial(
        prepare_for(config, tokenizer, labels, progress),
        streaming=streaming,
        salt=split_salt(config.seed) if streaming and settings.validation_fraction is not None else b"",
    )
    weights = {file: source.weight for source in sources for file in source.files}
    train = prepare(files)
    if held_out:
        return PreparedData(train, prepare(files_of(held_out)), weights, labels)
    if settings.validation_fraction is not None:
        return PreparedData(
            *split_validation(train, settings.validation_fraction, config.seed), weights, labels
        )
    return PreparedData(train, None, weights, labels)


def find_labels(
    config: RunConfig, model_config: GlmConfig, files: list[Path], progress: Progress = silent
) -> RunLabels | None:
    """The labels of the run: those of `task.labels`, else of the head that the model has, else of the training data."""
    data, task = config.data, config.task
    shared: dict[str, Any] = {
        "on_error": data.on_error,
        "cache_dir": data.cache_dir,
        "progress": progress,
    }
    if isinstance(data, ChatData) or task.name == "chat":
        return None
    own = own_labels(model_config, task.name)
    if own and task.labels is not None:
        refuse_other_labels(config.model.path, own, [name.strip() for name in task.labels])
    if isinstance(data, TokenData):
        if names := task.labels or own:
            return TokenLabels(tuple(names))
        reader = TokenReader(data.format, data.token_column, data.tag_column, data.separator)
        found = discover_tags(files, reader=reader, scheme=data.scheme, **shared)
        return TokenLabels(tuple(found.labels), found=True)
    assert isinstance(task, SequenceClassification)
    if own:
        labels = SequenceLabels.of_model(model_config.id2label, model_config.problem_type)
        if task.problem in ("auto", labels.problem):
            return labels
        if model_config.problem_type is None:  # it names labels without saying what they are
            return replace(labels, problem=task.problem)
        raise ConfigError(
            f"task.problem={task.problem}: the head of {config.model.path} was trained for {labels.problem}."
            " Leave task.problem out, or start from a model without such a head"
        )
    return discover_labels(files, keys=_keys(data), labels=task.labels, problem=task.problem, **shared)


def own_labels(model_config: GlmConfig, task: str) -> list[str] | None:
    """The labels of a model that was trained for the task, as its config.json has them.

    None for mere numbers (`LABEL_0`), but for a regression, whose outputs have no other names.
    """
    head = {"sequence_classification": "ForSequenceClassification"}.get(task, "ForTokenClassification")
    if not (model_config.architectures or [""])[0].endswith(head):
        return None
    names = [model_config.id2label[i] for i in sorted(model_config.id2label)]
    numbered = names == [f"LABEL_{i}" for i in range(len(names))]
    return None if numbered and model_config.problem_type != "regression" else names


def refuse_other_labels(model: str, own: list[str], wanted: list[str]) -> None:
    """A head that was trained gives its answers in its own order: other names for them would be wrong."""
    if wanted != own:
        raise ConfigError(
            f"task.labels: {model} has a head that was trained for labels of its own, {listed(tuple(own))}; other names"
            " or another order would turn its answers around. Leave task.labels out to go on with this head, or start"
            " from a model without one"
        )


def check_task(config: RunConfig, labels: RunLabels | None) -> None:
    """Refuse settings of the task that do not go with the labels, before anything is tokenised or loaded."""
    task = config.task
    problem = problem_of(labels)
    known, kind = METRICS[problem], _KINDS[problem]
    if isinstance(labels, TokenLabels) and is_iob2(labels.names):
        known = tuple(name for name in known if name != "val/f1_micro")  # of entities, val/f1 is that
        kind = "entities"
    if task.metric is not None and task.metric not in known:
        raise ConfigError(
            f"task.metric={task.metric}: {kind} have no such score. Use one of: {', '.join(known)}"
        )
    if not isinstance(task, ChatTask) and task.class_weights == "balanced" and problem in _WITHOUT_WEIGHTS:
        raise ConfigError(
            f"task.class_weights=balanced weighs single labels, and the training data have {_KINDS[problem]}:"
            " set it to none"
        )


def prepare_for(
    config: RunConfig, tokenizer: GlmTokenizer, labels: RunLabels | None, progress: Progress = silent
) -> Any:
    """The function that makes examples of files as the settings say; whether they are streamed is still to be given."""
    data = config.data
    shared: PrepareOptions = {
        "on_error": data.on_error,
        "cache_dir": data.cache_dir,
        "workers": usable_cores() if data.workers is None else data.workers,
        "progress": progress,
    }
    if isinstance(data, ChatData):
        return partial(
            prepare_chat,
            tokenizer=tokenizer,
            format=data.format,
            train_on=data.train_on,
            max_length=data.max_length,
            truncation=data.truncation,
            stop_token=data.stop_token,
            **shared,
        )
    if isinstance(data, TokenData):
        assert isinstance(labels, TokenLabels)
        return partial(
            prepare_tokens,
            tokenizer=tokenizer,
            labels=labels.names,
            tag_names=() if labels.found else labels.names,
            causal=not config.model.bidirectional,
            format=data.format,
            token_column=data.token_column,
            tag_column=data.tag_column,
            separator=data.separator,
            scheme=data.scheme,
            max_length=data.max_length,
            overlap=data.overlap,
            label_pieces=data.label_pieces,
            **shared,
        )
    assert isinstance(labels, SequenceLabels)
    return partial(
        prepare_sequence,
        tokenizer=tokenizer,
        labels=labels,
        keys=_keys(data),
        max_length=data.max_length,
        truncation=data.truncation,
        **shared,
    )


def _keys(data: SequenceData) -> SequenceKeys:
    return SequenceKeys(data.text_key, data.pair_key, data.label_key, data.label_separator)
