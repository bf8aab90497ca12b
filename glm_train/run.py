"""A run, from settings to a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule, Trainer

from glm_train import build
from glm_train.bar import progress_bar
from glm_train.build_data import build_data, build_tokenizer
from glm_train.build_model import build_model, device_type
from glm_train.build_task import build_task
from glm_train.callbacks.best import BestModel
from glm_train.callbacks.preemption import Stopped
from glm_train.callbacks.report import write_report
from glm_train.callbacks.resume import open_state, restore_weights
from glm_train.config.yaml_text import to_yaml
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError
from glm_train.model.presets import suspicious_theta
from glm_train.optim.clip import NonFiniteError
from glm_train.run_folder import RunFolder, choose_run_folder
from glm_train.run_plan import RunPlan, build_plan, plan_position, refuse_other_plan
from glm_train.run_result import save_result
from glm_train.run_summary import summary
from glm_train.tasks.base import GlmTask

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is, and its last scalars (names as in metrics.csv)."""

    folder: RunFolder
    steps: int
    metrics: dict[str, float]
    best: str | None  # the validation whose model is kept, in words; None: the last step's model is
    tables: list[str]  # of that validation, or of the last one, to be printed


def fit(config: RunConfig, recipe: str) -> RunResult:
    """Train as `config` says and leave a run folder. `recipe` names the run where no output_dir does.

    All that can be refused is refused before anything is written. Raises `GlmTrainError` for the user's mistakes and
    `callbacks.preemption.Stopped` after a signal, with the state saved.
    """
    folder, state, notes = choose_run_folder(recipe, config.output_dir, config.resume)
    device_type(config)  # refuses a GPU that is not there
    _refuse_ranks()
    tokenizer, model_config = build_tokenizer(config)
    with progress_bar() as progress:
        data = build_data(config, tokenizer, model_config, progress)
    plan = build_plan(config, data.train)
    position = plan_position(config, plan, data, model_config, tokenizer)
    resumed = open_state(state) if state else None
    if resumed and state:
        refuse_other_plan(resumed.position, resumed.step, position, plan, state)
    torch.manual_seed(config.seed)
    model, adapter = build_model(config, tokenizer, data.labels)
    task = build_task(config, model, plan, data)
    if resumed:
        restore_weights(model, resumed.tensors)
        task.step = resumed.step
    unvalidated = resumed is not None and not resumed.validated
    if config.model.rope_theta is None and (doubt := suspicious_theta(model_config)):
        notes = [*notes, f"warning     {doubt}"]
    for line in [*notes, *summary(config, folder, plan, data, model, adapter, task.step)]:
        print(line, flush=True)
    loggers = build.build_loggers(config, folder, task.step)
    callbacks = build.build_callbacks(config, folder, plan, data, model, position=position, resumed=resumed)
    del resumed  # the callback lets it go once it has put it in place
    # What was run, not where: config.yaml is a recipe too.
    settings = replace(config, resume="never", output_dir=None)
    folder.begin(to_yaml(settings), latest=config.output_dir is None and state is None)
    trainer = build.build_trainer(
        config, folder, callbacks.all, loggers, validate=data.validation is not None
    )
    module = build.build_datamodule(config, plan, data, task.step)
    best = callbacks.best
    _train(trainer, task, module, plan, data.train, folder, best, validate_first=unvalidated)
    if best.directory is not None and best.best.step != task.step:
        restore_weights(model, {"model": best.weights()})
    save_result(folder.model, config, model, tokenizer)
    curves = write_report(folder.report, folder.metrics, title=config.run_name or str(folder.path))
    last = {name: points[-1][1] for name, points in curves.items()}
    return RunResult(
        folder,
        task.step,
        last,
        str(best) if best.directory else None,
        best.tables if best.directory else task.tables,
    )


def _train(
    trainer: Trainer,
    task: GlmTask,
    data: LightningDataModule,
    plan: RunPlan,
    train: ExampleStore,
    folder: RunFolder,
    best: BestModel,
    *,
    validate_first: bool,
) -> None:
    """Run the steps that are still to do, after the validation that a stop left out."""
    try:
        if validate_first:
            trainer.validate(task, datamodule=data, verbose=False)
        if task.step < plan.total_steps and not best.exhausted:
            trainer.fit(task, datamodule=data)
        for logger in trainer.loggers:
            logger.save()
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}\n{_sources(train, error.documents)}") from None
    except Stopped as stopped:
        stopped.folder = folder.path
        raise


def _refuse_ranks() -> None:
    """A launcher's other processes would train the same thing into the same folder."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, but this version trains on one device: "
            "start one process, without torchrun, or unset WORLD_SIZE"
        )


def _sources(store: ExampleStore, documents: Sequence[int]) -> str:
    """Where the first examples of a step came from, a `path:line` each."""
    places = [":".join(map(str, store.source(i))) for i in documents[:20]]
    more = len(documents) - len(places)
    return "its examples: " + ", ".join(places) + (f" and {more} more" if more else "")
