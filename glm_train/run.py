"""A run, from settings to a model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import glm_train
from glm_train import build, dist
from glm_train.callbacks.report import write_report
from glm_train.callbacks.resume import restore_weights
from glm_train.checkpoint.resume import load_state
from glm_train.config.yaml_text import to_yaml
from glm_train.data.store import ExampleStore
from glm_train.model.generation import stop_ids
from glm_train.optim.clip import NonFiniteError
from glm_train.run_folder import RunFolder, choose_run_folder

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
    tokenizer, _ = build.build_tokenizer(config)
    train, validation = build.build_data(config, tokenizer)
    plan = build.build_plan(config, train)
    restored = None
    if state is not None:
        restored = load_state(state)
        build.refuse_other_plan(restored[1]["position"], build.plan_position(config, plan, train), state)
    torch.manual_seed(config.seed)
    model = build.build_model(config)
    start = 0
    if restored:
        restore_weights(model, restored[0])
        start = restored[1]["step"]
    for line in [*notes, *_summary(config, folder, plan, train, validation, model, device, start)]:
        print(line, flush=True)

    folder.begin(to_yaml(config), latest=config.output_dir is None and state is None)
    task = build.build_task(config, model, plan)
    callbacks = build.build_callbacks(config, folder, plan, train, model, restored)
    loggers = build.build_loggers(config, folder, start)
    trainer = build.build_trainer(config, folder, callbacks, loggers, validate=validation is not None)
    if start < plan.total_steps:
        try:
            trainer.fit(task, datamodule=build.build_datamodule(config, plan, train, validation, start))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}\n{_sources(train, error.documents)}") from None
    save_model(folder.model, model, tokenizer)
    curves = write_report(folder.report, folder.metrics, title=config.run_name or str(folder.path))
    return RunResult(folder, plan.total_steps, {name: points[-1][1] for name, points in curves.items()})


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
    plan: build.Plan,
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
        f"data        {_describe(train)}",
    ]
    if validation is not None:
        lines.append(f"validation  {_describe(validation)}")
    lines.append(
        f"batch       {dist.world_size()} rank x {config.batch.accumulate} microbatch of {size} = "
        f"{tokens / plan.steps_per_epoch:,.0f} tokens a step ({targets / plan.steps_per_epoch:,.0f} trained)"
    )
    lines.append(
        f"steps       {plan.steps_per_epoch:,} an epoch x {plan.epochs:g} epochs = {plan.total_steps:,}"
        + (f", going on after step {start:,}" if start else "")
    )
    lines.append(
        f"optimizer   {config.optim.name}, lr {config.optim.lr:g} {config.schedule.name}, "
        f"{config.schedule.resolve_warmup(plan.total_steps):,} warm-up steps"
    )
    return lines


def _describe(store: ExampleStore) -> str:
    tokens, trained = int(store.lengths.sum()), int(store.trained.sum())
    line = f"{len(store):,} examples, {tokens:,} tokens, {trained:,} trained ({trained / tokens:.0%})"
    return line


def _count(number: int) -> str:
    """1,234,567 as 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)
