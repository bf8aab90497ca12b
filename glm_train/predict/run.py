"""From what a user names to answers or scores: settings, model, and the code of its task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glm_train.bar import Progress, silent
from glm_train.build_model import base_dtype, device_type
from glm_train.checkpoint.vocabulary import check_vocabulary
from glm_train.data.records import check_file
from glm_train.data.sequence_targets import SequenceLabels
from glm_train.errors import ConfigError
from glm_train.predict.output import Evaluation, PredictOptions, Summary, check_places
from glm_train.predict.settings import Chosen, choose
from glm_train.trained_model import TrainedModel, load_trained


def predict(
    run_or_model: str,
    source: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    overwrite: bool = False,
    threshold: float | None = None,
    generation: dict[str, Any] | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Answer each record of `source` in `output`, one line of JSON a record, in their order.

    Args:
        run_or_model: a run folder, a model or adapter folder, or a hub id.
        overrides: `key=value` of the settings with which records are read.
        overwrite, threshold, generation, progress: see `PredictOptions`.
        resume: chat: go on with an output that was not finished.

    Raises:
        ConfigError, CheckpointError, DataError: a setting, the model or the file cannot be used; also where no record
            gave an answer. All that can be refused is refused before the model is loaded.
    """
    check_file(source, any_suffix=True)
    check_places(source, output, overwrite=overwrite or resume)
    chosen = choose(run_or_model, overrides)
    of_chat = [*(generation or {}), *(["resume"] if resume else [])]
    _check_options(chosen, source, threshold, of_chat)
    options = PredictOptions(
        chosen.config,
        chosen.given,
        device_type(chosen.config),
        overwrite,
        threshold,
        generation or {},
        progress,
    )
    trained = _load(chosen, options.device)
    if trained.task == "sequence_classification":
        from glm_train.predict.sequence import predict_sequence

        return predict_sequence(trained, source, output, options)
    if trained.task == "token_classification":
        from glm_train.predict.tokens import predict_tokens

        return predict_tokens(trained, source, output, options)
    from glm_train.predict.chat import predict_chat

    return predict_chat(trained, source, output, options, resume=resume)


def evaluate(
    run_or_model: str,
    overrides: Sequence[str] = (),
    *,
    replies: dict[str, int] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """The scores of a model on `data.validation`, by the names and with the values that `fit` logs.

    `replies` is for chat models: `samples` and `max_new_tokens` of `evaluate_chat`. Raises as `predict` does; a label
    that the model does not know is a `DataError` with its place.
    """
    chosen = choose(run_or_model, overrides, evaluate=True)
    _refuse_options(chosen, [*(replies or {})])
    if chosen.config.data.validation is None:
        raise ConfigError("data.validation is missing: give data.validation=FILE on the command line.")
    device = device_type(chosen.config)
    if chosen.task == "chat":
        from glm_train.predict.evaluate_chat import evaluate_chat

        return evaluate_chat(_load(chosen, device), chosen.config, **(replies or {}), progress=progress)
    from glm_train.predict.evaluate_classes import evaluate_classes, prepare_validation

    store, labels = prepare_validation(chosen, progress)
    return evaluate_classes(_load(chosen, device), chosen.config, store, labels, device, progress)


def _load(chosen: Chosen, device: str) -> TrainedModel:
    # As the run had them: a base that was frozen in bf16 has other sums in fp32.
    trained = load_trained(str(chosen.folder), device=device, dtype=base_dtype(chosen.config))
    check_vocabulary(trained.model.config, trained.tokenizer)
    return trained


def _check_options(chosen: Chosen, source: Path, threshold: float | None, of_chat: list[str]) -> None:
    """Refuse what the model's task does not read, and a source that is no file of it."""
    config: Any = chosen.config
    given = "data.format" in chosen.given
    _refuse_options(chosen, of_chat)
    if chosen.task == "sequence_classification":
        from glm_train.predict.sequence import check_threshold, sequence_items

        names, problem = chosen.model_config.id2label, chosen.model_config.problem_type
        check_threshold(threshold, SequenceLabels.of_model(names, problem).problem)
        sequence_items(source)
    elif threshold is not None:
        raise ConfigError(f"--threshold is for sequence classification, and this model is for {chosen.task}.")
    elif chosen.task == "token_classification":
        from glm_train.predict.tokens import token_items

        token_items(source, config.data, given=given)


def _refuse_options(chosen: Chosen, of_chat: list[str]) -> None:
    if chosen.task != "chat" and of_chat:
        option = f"--{of_chat[0].replace('_', '-')}"
        raise ConfigError(f"{option} is for chat models, and this one is for {chosen.task}. Leave it out.")
