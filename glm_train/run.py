"""A run, from settings to a model folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningDataModule, Trainer

import glm_train
from glm_train import build, dist
from glm_train.bar import progress_bar
from glm_train.build_data import build_data, build_tokenizer
from glm_train.callbacks.preemption import Stopped
from glm_train.callbacks.report import write_report
from glm_train.callbacks.resume import open_state, restore_weights
from glm_train.config.yaml_text import to_yaml
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError
from glm_train.model.generation import stop_ids
from glm_train.model.presets import suspicious_theta
from glm_train.optim.clip import NonFiniteError
from glm_train.run_folder import RunFolder, choose_run_folder
from glm_train.run_plan import RunPlan, build_plan, plan_position, refuse_other_plan
from glm_train.tasks.base import GlmTask

if TYPE_CHECKING:
    from glm_train.checkpoint.pretrained import GlmForCausalLM
    from glm_train.config.schema import RunConfig
    from glm_train.text.tokenizer import GlmTokenizer


@dataclass(frozen=True)
class RunResult:
    """Where a finished run is, and its last scalars (names as in metrics.csv)."""

    folder: RunFolder
    steps: int
    metrics: dict[str, float]


def fit(config: RunConfig, recipe: str) -> RunResult:
    """Train as `config` says and leave a run folder. `recipe` names the run where no output_dir does.

    All that can be refused is refused before anything is written. Raises `GlmTrainError` for the user's mistakes and
    `callbacks.preemption.Stopped` after a signal, with the state saved.
    """
    folder, state, notes = choose_run_folder(recipe, config.output_dir, config.resume)
    device = build.device_type(config)
    _refuse_ranks()
    tokenizer, model_config = build_tokenizer(config)
    with progress_bar() as progress:
        train, validation = build_data(config, tokenizer, progress)
    plan = build_plan(config, train)
    position = plan_position(config, plan, train, model_config, tokenizer)
    resumed = open_state(state) if state else None
    if resumed and state:
        refuse_other_plan(resumed.position, resumed.step, position, plan, state)
    torch.manual_seed(config.seed)
    model = build.build_model(config)
    task = build.build_task(config, model, plan)
    if resumed:
        restore_weights(model, resumed.tensors)
        task.step = resumed.step
    unvalidated = resumed is not None and not resumed.validated
    if config.model.rope_theta is None and (doubt := suspicious_theta(model_config)):
        notes = [*notes, f"warning     {doubt}"]
    for line in [*notes, *_summary(config, folder, plan, train, validation, model, device, task.step)]:
        print(line, flush=True)
    loggers = build.build_loggers(config, folder, task.step)
    callbacks = build.build_callbacks(
        config,
        folder,
        plan,
        train,
        model,
        validate=validation is not None,
        position=position,
        resumed=resumed,
    )
    del resumed  # the callback lets it go once it has put it in place
    # What was run, not where: config.yaml is a recipe too.
    settings = replace(config, resume="never", output_dir=None)
    folder.begin(to_yaml(settings), latest=config.output_dir is None and state is None)
    trainer = build.build_trainer(config, folder, callbacks, loggers, validate=validation is not None)
    data = build.build_datamodule(config, plan, train, validation, task.step)
    _train(trainer, task, data, plan, train, folder, validate_first=unvalidated)
    save_model(folder.model, model, tokenizer)
    curves = write_report(folder.report, folder.metrics, title=config.run_name or str(folder.path))
    return RunResult(folder, plan.total_steps, {name: points[-1][1] for name, points in curves.items()})


def _train(
    trainer: Trainer,
    task: GlmTask,
    data: LightningDataModule,
    plan: RunPlan,
    train: ExampleStore,
    folder: RunFolder,
    *,
    validate_first: bool,
) -> None:
    """Run the steps that are still to do, after the validation that a stop left out."""
    try:
        if validate_first:
            trainer.validate(task, datamodule=data, verbose=False)
        if task.step < plan.total_steps:
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


def save_model(path: Path, model: GlmForCausalLM, tokenizer: GlmTokenizer) -> None:
    """The result: a Hugging Face folder with the tokenizer and its chat template.

    Its generation_config.json lists every token that ends a turn, because all of them were trained: a server that
    knows fewer would let the model run on into the user's part.
    """
    known = stop_ids(model)
    stops = [*known, *(i for i in tokenizer.stop_token_ids if i not in known)]
    model.generation_config = {**model.generation_config, "eos_token_id": stops}
    model.save_pretrained(path, overwrite=True)  # of this run, where it was killed while it wrote
    tokenizer.save_pretrained(path)


def _sources(store: ExampleStore, documents: Sequence[int]) -> str:
    """Where the first examples of a step came from, a `path:line` each."""
    places = [":".join(map(str, store.source(i))) for i in documents[:20]]
    more = len(documents) - len(places)
    return "its examples: " + ", ".join(places) + (f" and {more} more" if more else "")


def _summary(
    config: RunConfig,
    folder: RunFolder,
    plan: RunPlan,
    train: ExampleStore,
    validation: ExampleStore | None,
    model: GlmForCausalLM,
    device: str,
    start: int,
) -> list[str]:
    """What is about to run, with the batch arithmetic, one line a subject."""
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    where = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    size = f"up to {plan.token_budget:,} tokens" if plan.token_budget else f"{plan.documents:,} documents"
    tokens, targets = int(train.lengths.sum()), int(train.trained.sum())
    lines = [
        f"glm-train {glm_train.__version__}  {folder.path}",
        f"model       {config.model.path}: {model.config.model_type}, {_count(parameters)} parameters, "
        f"{trained / parameters:.0%} trained, {config.trainer.precision} on {where}",
        *_describe("data", train),
    ]
    if validation is not None:
        lines += _describe("validation", validation)
    lines.append(
        f"batch       {dist.world_size()} device x {config.batch.accumulate} "
        f"{'microbatch' if config.batch.accumulate == 1 else 'microbatches'} of {size} = "
        f"{tokens / plan.steps_per_epoch:,.0f} tokens a step ({targets / plan.steps_per_epoch:,.0f} trained)"
    )
    lines.append(
        f"steps       {plan.total_steps:,}, {plan.epochs:.4g} epochs of {plan.steps_per_epoch:,}"
        + (f", going on after step {start:,}" if start else "")
    )
    lines.append(
        f"optimizer   {config.optim.name}, lr {config.optim.lr:g} {config.schedule.name}, "
        f"{config.schedule.resolve_warmup(plan.total_steps):,} warm-up steps"
    )
    return lines


def _describe(what: str, store: ExampleStore) -> list[str]:
    """Examples and tokens, then what of the files was left out or cut."""
    tokens, trained = int(store.lengths.sum()), int(store.trained.sum())
    size = f"{len(store):,} examples, {tokens:,} tokens, {trained:,} trained ({trained / tokens:.0%})"
    return [f"{what:<12}{size}", *(f"{'':12}{line}" for line in store.report.losses())]


def _count(number: int) -> str:
    """1,234,567 as 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
