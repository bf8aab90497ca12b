"""A run, from settings to a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningDataModule, Trainer

from glm_train import build, dist
from glm_train.adapters.base import remembered
from glm_train.bar import progress_bar
from glm_train.build_data import PreparedData, build_data, build_tokenizer
from glm_train.build_model import build_model, device_type
from glm_train.build_task import build_task
from glm_train.callbacks.best import BestModel
from glm_train.callbacks.report import write_report
from glm_train.callbacks.resume import open_state, restore_weights
from glm_train.checkpoint.pretrained import Pretrained
from glm_train.config.yaml_text import to_yaml
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError
from glm_train.model.config import GlmConfig
from glm_train.model.presets import suspicious_theta
from glm_train.optim.clip import NonFiniteError
from glm_train.parallel.rendezvous import Output, Rendezvous
from glm_train.parallel.signals import Stopped, steps_are_done, unheard
from glm_train.run_folder import RunFolder, choose_run_folder
from glm_train.run_plan import (
    BASE_WEIGHTS,
    RunPlan,
    build_plan,
    compares_alike,
    plan_position,
    refuse_other_base,
    refuse_other_plan,
)
from glm_train.run_result import save_result_together
from glm_train.run_summary import summary
from glm_train.tasks.base import GlmTask
from glm_train.text.tokenizer import GlmTokenizer

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


def fit(
    config: RunConfig, recipe: str, meeting: Rendezvous | None = None, output: Output | None = None
) -> RunResult:
    """Train as `config` says and leave a run folder. `recipe` names the run where no output_dir does.

    In one of several processes `meeting` is where they meet, and `output` where one that is not rank 0 writes. All that
    can be refused is refused before anything is written. Raises `GlmTrainError` for the user's mistakes and
    `parallel.signals.Stopped` after a signal, with the state saved.
    """
    if meeting is None:
        _refuse_ranks(config)
    folder, state, notes = _place(config, recipe, meeting)
    device_type(config)  # refuses a GPU that is not there
    tokenizer, data, model_config = _prepare(config, meeting)
    plan = build_plan(config, data.train)
    position = plan_position(config, plan, data, model_config, tokenizer)
    resumed = open_state(state) if state else None
    if resumed and state:
        refuse_other_plan(resumed.position, resumed.step, position, plan, state)
        if not compares_alike(resumed.position, position):
            resumed.best = {}
    torch.manual_seed(config.seed)
    model, adapter = build_model(config, tokenizer, data.labels)
    position[BASE_WEIGHTS] = remembered(model)
    if resumed and state:
        refuse_other_base(resumed.position, position[BASE_WEIGHTS], state)
    if dist.rank() > 0:
        torch.manual_seed(config.seed + (dist.rank() << 32))  # dropout of its own
    task = build_task(config, model, plan, data)
    if resumed:
        restore_weights(model, resumed.tensors)
        task.step = resumed.step
    unvalidated = resumed is not None and not resumed.validated
    if config.model.rope_theta is None and (doubt := suspicious_theta(model_config)):
        notes = [*notes, f"warning     {doubt}"]
    lines = [*notes, *summary(config, folder, plan, data, model, adapter, task.step)]
    _begin(config, folder, latest=config.output_dir is None and state is None, output=output, lines=lines)
    loggers = build.build_loggers(config, folder, task.step)
    callbacks = build.build_callbacks(
        config, folder, plan, data, model, tokenizer, position=position, resumed=resumed
    )
    del resumed  # the callback lets it go once it has put it in place
    trainer = build.build_trainer(
        config, folder, callbacks.all, loggers, validate=data.validation is not None
    )
    module = build.build_datamodule(config, plan, data, task.step)
    best = callbacks.best
    _train(trainer, task, module, plan, data.train, folder, callbacks, validate_first=unvalidated)
    if best.directory is not None and best.best.step != task.step:
        restore_weights(model, {"model": best.weights()})
    return _finish(config, folder, model, tokenizer, task, best)


def _place(
    config: RunConfig, recipe: str, meeting: Rendezvous | None
) -> tuple[RunFolder, Path | None, list[str]]:
    """The folder of the run and the state to go on from, on all ranks those that rank 0 has chosen."""
    if meeting is None:
        return choose_run_folder(recipe, config.output_dir, config.resume)

    def choose() -> list[Any]:
        folder, state, notes = choose_run_folder(recipe, config.output_dir, config.resume)
        return [str(folder.path), state and str(state), notes]

    folder, state, notes = meeting.first("folder", choose)
    return RunFolder(Path(folder)), Path(state) if state else None, notes if meeting.seat.rank == 0 else []


def _prepare(config: RunConfig, meeting: Rendezvous | None) -> tuple[GlmTokenizer, PreparedData, GlmConfig]:
    """Tokenizer and data. Of several ranks the first prepares them, and then all are one process group."""

    def prepare() -> tuple[GlmTokenizer, PreparedData, GlmConfig]:
        tokenizer, model_config = build_tokenizer(config)
        with progress_bar() as progress:
            return tokenizer, build_data(config, tokenizer, model_config, progress), model_config

    if meeting is None:
        return prepare()
    made = []
    meeting.first("prepared", lambda: made.append(prepare()))
    meeting.form_group(device_type(config))
    return made[0] if made else prepare()  # from the cache, which rank 0 has filled


def _begin(
    config: RunConfig, folder: RunFolder, *, latest: bool, output: Output | None, lines: list[str]
) -> None:
    """Make the folder, and say what is about to run. Ranks other than 0 write into logs of their own from here on."""
    if dist.rank() == 0:
        for line in lines:
            print(line, flush=True)
        # What was run, not where: config.yaml is a recipe too.
        folder.begin(to_yaml(replace(config, resume="never", output_dir=None)), latest=latest)
    dist.wait_for_all()
    if output is not None:
        output.keep(folder.logs / f"rank-{dist.rank()}.log")


def _finish(
    config: RunConfig,
    folder: RunFolder,
    model: Pretrained,
    tokenizer: GlmTokenizer,
    task: GlmTask,
    best: BestModel,
) -> RunResult:
    """Save the result, which all ranks join in, and the curves, on rank 0."""
    save_result_together(folder.model, config, model, tokenizer)
    last: dict[str, float] = {}
    if dist.rank() == 0:
        curves = write_report(folder.report, folder.metrics, title=config.run_name or str(folder.path))
        last = {name: points[-1][1] for name, points in curves.items()}
    dist.wait_for_all()
    kept = best.directory is not None
    return RunResult(
        folder, task.step, last, str(best) if kept else None, best.tables if kept else task.tables
    )


def _train(
    trainer: Trainer,
    task: GlmTask,
    data: LightningDataModule,
    plan: RunPlan,
    train: ExampleStore,
    folder: RunFolder,
    callbacks: build.RunCallbacks,
    *,
    validate_first: bool,
) -> None:
    """Run the steps that are still to do, after the validation that a stop left out."""
    try:
        if validate_first:
            trainer.validate(task, datamodule=data, verbose=False)
        if task.step < plan.total_steps and not callbacks.best.exhausted:
            trainer.fit(task, datamodule=data)
        else:
            steps_are_done(folder.path)
        callbacks.writer.wait()
        for logger in trainer.loggers:
            logger.save()
    except Stopped as stopped:
        stopped.folder = folder.path
        raise
    except Exception as error:
        with unheard():
            callbacks.writer.finish()
            if not isinstance(error, NonFiniteError):
                raise
            documents = [d for share in dist.gather_objects(error.documents) for d in share]
            raise NonFiniteError(f"{error}\n{_sources(train, documents)}") from None


def _refuse_ranks(config: RunConfig) -> None:
    """Without the command's launch, other processes would train the same thing into the same folder."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, and this process was called as the only one: use the "
            "command glm-train fit, or unset WORLD_SIZE"
        )
    if config.parallel.name != "single":
        raise ConfigError(
            f"parallel={config.parallel.name} is started by the command glm-train fit, which starts a process for each "
            "device; a call from Python is one process, parallel=single"
        )


def _sources(store: ExampleStore, documents: Sequence[int]) -> str:
    """Where the first examples of a step came from, a `path:line` each."""
    places = [":".join(map(str, store.source(i))) for i in documents[:20]]
    more = len(documents) - len(places)
    return "its examples: " + ", ".join(places) + (f" and {more} more" if more else "")
