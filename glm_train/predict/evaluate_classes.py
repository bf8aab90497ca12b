"""Scores of both classification tasks on labelled data: the validation of `fit`, without a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from glm_train.bar import Progress
from glm_train.build_data import RunLabels, TokenLabels, build_data, build_tokenizer, prepare_for
from glm_train.build_task import TARGET_RULES, trained_labels
from glm_train.config.schema import TokenData
from glm_train.data.collate import pack
from glm_train.data.plan import plan_in_order
from glm_train.data.records import SUFFIXES
from glm_train.data.sequence_targets import SequenceLabels, class_weights
from glm_train.data.sources import files_of, find_sources
from glm_train.data.store import ExampleStore
from glm_train.errors import GlmTrainError
from glm_train.predict.batches import BATCH_TOKENS
from glm_train.predict.output import Evaluation
from glm_train.tasks.classifier import ClassifierTask
from glm_train.tasks.sequence_classification import SequenceClassificationTask
from glm_train.tasks.token_classification import TokenClassificationTask
from glm_train.trained_model import tokenizer_of

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.model.config import GlmConfig
    from glm_train.predict.settings import Chosen
    from glm_train.trained_model import TrainedModel


def prepare_validation(chosen: Chosen, progress: Progress) -> tuple[ExampleStore, RunLabels]:
    """The examples of `data.validation`, labelled with the model's labels, as `fit` prepares them.

    Raises `DataError` with file and line; a label that the model does not have is one.
    """
    data = chosen.config.data
    labels = model_labels(chosen.model_config, chosen.task)
    files = files_of(find_sources(data.validation or (), split="validation"))
    tokenizer = tokenizer_of(chosen.folder)
    config = chosen.config
    if isinstance(data, TokenData) and "data.format" not in chosen.given:
        config = replace(config, data=replace(data, format=_format_for(files, data.format)))
    return prepare_for(config, tokenizer, labels, progress)(files), labels


def _format_for(files: list[Path], format: str) -> Any:
    """How files are read where only the run's own data say it: not against what the names of these say."""
    named = {SUFFIXES.get(file.suffix.lower()) for file in files}
    against = "conll" in named if format == "entities" else not named & {None, "conll"}
    return "auto" if format in ("conll", "entities") and against else format


def model_labels(config: GlmConfig, task: str) -> RunLabels:
    """The labels that a model's config.json names, in their order."""
    if task == "sequence_classification":
        return SequenceLabels.of_model(config.id2label, config.problem_type)
    return TokenLabels(tuple(config.id2label[index] for index in sorted(config.id2label)))


def evaluate_classes(
    trained: TrainedModel,
    config: RunConfig,
    store: ExampleStore,
    labels: RunLabels,
    device: str,
    progress: Progress,
) -> Evaluation:
    """Run the task's own validation over the whole store, on one device."""
    weights = training_weights(trained, labels, progress)
    task = _task(trained, store, labels, weights).to(device).eval()
    problem = labels.problem if isinstance(labels, SequenceLabels) else "tokens"
    longest = int(store.lengths.max())
    plan = plan_in_order(store.lengths, store.trained, token_budget=max(longest, BATCH_TOKENS))
    (step,) = plan.steps
    done = 0
    with torch.inference_mode():
        task.on_validation_epoch_start()
        for number, members in enumerate(step.microbatches):
            batch = pack([store[i] for i in members], members, step.trained, TARGET_RULES[problem])
            with torch.autocast(device, torch.bfloat16, enabled=config.trainer.precision == "bf16-mixed"):
                task.validation_step([batch.to(device)], number)
            done += len(members)
            progress("examples", done, len(store))
        task.on_validation_epoch_end()
    notes = [*store.report.losses(), *_gain(task.validation)]
    if weights is None and getattr(config.task, "class_weights", "none") != "none":
        notes.append(
            "val/loss is without task.class_weights: the training data they follow from are not there"
        )
    return Evaluation(dict(task.validation), list(task.tables), notes)


def training_weights(trained: TrainedModel, labels: RunLabels, progress: Progress) -> torch.Tensor | None:
    """The class weights (L,) of the model's run, from its training data, which the cache keeps; None without any."""
    settings = trained.settings
    if settings is None or getattr(settings.task, "class_weights", "none") == "none":
        return None
    try:
        tokenizer, base = build_tokenizer(settings)
        data = build_data(settings, tokenizer, base, progress)
    except GlmTrainError:  # moved or deleted since
        return None
    if data.labels is None or data.labels.names != labels.names:
        return None
    return torch.from_numpy(class_weights(trained_labels(data)))


def _task(
    trained: TrainedModel, store: ExampleStore, labels: RunLabels, weights: torch.Tensor | None
) -> ClassifierTask:
    untrained: dict[str, Any] = {"optimizer": _no_optimizer, "learning_rate": float, "clip_norm": None}
    untrained["class_weights"] = weights
    model: Any = trained.model
    if trained.task == "token_classification":
        return TokenClassificationTask(model, part=store.part, **untrained)
    # A folder may leave it to be told from the labels, and validation wants to know.
    model.config.problem_type = labels.config_changes()["problem_type"]
    return SequenceClassificationTask(model, **untrained)


def _no_optimizer(_: torch.nn.Module) -> torch.optim.Optimizer:
    raise TypeError("nothing is trained here")


def _gain(metrics: dict[str, float]) -> list[str]:
    if "val/f1_argmax" not in metrics:
        return []
    gain = metrics["val/f1"] - metrics["val/f1_argmax"]
    return [f"constrained decoding: F1 {gain:+.4f} over each word's likeliest tag (val/f1_argmax)"]
