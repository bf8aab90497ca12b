"""Settings become objects here and nowhere else."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment

from glm_train import dist
from glm_train.build_data import PreparedData
from glm_train.build_model import device_type
from glm_train.build_task import TARGET_RULES, best_metric
from glm_train.callbacks.best import Best, BestModel
from glm_train.callbacks.csv_logger import CsvLogger
from glm_train.callbacks.loggers import tensorboard_logger, wandb_logger
from glm_train.callbacks.metrics import MetricsLogger
from glm_train.callbacks.peak_flops import peak_flops
from glm_train.callbacks.preemption import StopOnSignal
from glm_train.callbacks.progress import ProgressReport
from glm_train.callbacks.resume import Resumed, ResumeState, trained_weights
from glm_train.callbacks.samples import SampleAnswers
from glm_train.callbacks.validation import ValidationSchedule
from glm_train.checkpoint.pretrained import Pretrained
from glm_train.checkpoint.writer import StateWriter
from glm_train.config.schema import TensorBoardLogger, WandbLogger
from glm_train.data.datamodule import GlmDataModule
from glm_train.model.flops import trained_model_flops
from glm_train.parallel.strategy import RankStrategy
from glm_train.run_folder import RunFolder
from glm_train.run_plan import RunPlan

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig
    from glm_train.text.tokenizer import GlmTokenizer

_PRECISION = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


def build_datamodule(config: RunConfig, plan: RunPlan, data: PreparedData, start_step: int) -> GlmDataModule:
    longest = 0 if data.validation is None else int(data.validation.lengths.max())
    return GlmDataModule(
        data.train,
        data.validation,
        seed=config.seed,
        microbatches_per_step=plan.microbatches_per_step,
        token_budget=plan.token_budget,
        documents=plan.documents,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        start_step=start_step,
        validation_tokens=max(longest, plan.token_budget or 0),
        workers=config.data.workers or 0,
        pin_memory=device_type(config) == "cuda",
        rule=TARGET_RULES[data.problem],
    )


def build_callbacks(
    config: RunConfig,
    folder: RunFolder,
    plan: RunPlan,
    data: PreparedData,
    model: Pretrained,
    tokenizer: GlmTokenizer,
    *,
    position: dict[str, Any],
    resumed: Resumed | None,
) -> RunCallbacks:
    peak = peak_flops(torch.cuda.get_device_name()) if device_type(config) == "cuda" else None
    train, validate = data.train, data.validation is not None
    flops = trained_model_flops(model, train.lengths.tolist(), int(train.trained.sum()))
    metrics = MetricsLogger(
        log_every=config.trainer.log_every,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        flops_per_token=flops / int(train.lengths.sum()),
        peak_flops=peak and peak * dist.world_size(),
        tokens_before=resumed.tokens if resumed else 0,
    )
    every = config.trainer.validate_every or plan.steps_per_epoch
    validation = ValidationSchedule(every, plan.total_steps, enabled=validate)
    writer = StateWriter(background=config.trainer.async_save)
    keeps = validate and config.trainer.result == "best"
    best = BestModel(
        best_metric(config, data),
        directory=folder.best if keeps else None,
        patience=config.trainer.patience,
        weights=trained_weights,
        writer=writer,
        best=Best(**resumed.best) if resumed else None,
    )
    state = ResumeState(
        folder.checkpoints,
        every=config.trainer.save_every or plan.steps_per_epoch,
        keep=config.trainer.keep,
        position=position,
        metrics=metrics,
        validation=validation,
        best=best,
        writer=writer,
        resumed=resumed,
    )
    samples = _samples(config, folder, plan, data, tokenizer, resumed)
    stop = StopOnSignal(state.save_now)
    # Order matters: values are logged before they are shown, and all rows of a step before its state is saved.
    return RunCallbacks(
        [validation, metrics, ProgressReport(metrics), *samples, best, state, stop], best, writer
    )


def _samples(
    config: RunConfig,
    folder: RunFolder,
    plan: RunPlan,
    data: PreparedData,
    tokenizer: GlmTokenizer,
    resumed: Resumed | None,
) -> list[Callback]:
    """Answers to validation prompts, where the run wants them."""
    settings = config.samples
    if settings.every is None or data.validation is None:
        return []
    return [
        SampleAnswers(
            data.validation,
            tokenizer,
            folder.samples,
            every=settings.every,
            count=settings.count,
            max_new_tokens=settings.max_new_tokens,
            total=plan.total_steps,
            resumed_step=resumed.step if resumed else 0,
        )
    ]


@dataclass(frozen=True)
class RunCallbacks:
    """All callbacks of a run in order, the one that a run asks for its best model, and what saves their states."""

    all: list[Callback]
    best: BestModel
    writer: StateWriter


def build_loggers(config: RunConfig, folder: RunFolder, resumed_step: int) -> list[Logger]:
    """metrics.csv, always, and the logger that was chosen."""
    if dist.rank() > 0:
        return []  # rank 0 logs for all
    loggers: list[Logger] = [CsvLogger(folder.metrics, resumed_step)]
    chosen = config.logger
    if isinstance(chosen, WandbLogger):
        name = config.run_name or folder.path.name
        loggers.append(
            wandb_logger(
                folder.path, name=name, project=chosen.project, entity=chosen.entity, mode=chosen.mode
            )
        )
    elif isinstance(chosen, TensorBoardLogger):
        loggers.append(tensorboard_logger(folder.path))
    return loggers


def build_trainer(
    config: RunConfig, folder: RunFolder, callbacks: list[Callback], loggers: list[Logger], *, validate: bool
) -> Trainer:
    quiet_lightning()
    device = device_type(config)
    alone = not dist.is_launched()
    number = 0 if alone or device == "cpu" else torch.cuda.current_device()
    return Trainer(
        accelerator=device,
        devices=1 if alone or device == "cpu" else [number],
        strategy="auto" if alone else RankStrategy(torch.device(device, number)),
        plugins=None if alone else [LightningEnvironment()],  # else it would look for launchers by itself
        precision=_PRECISION[config.trainer.precision],  # type: ignore[arg-type]
        max_epochs=1,  # the loader runs through all epochs of the plan as one
        callbacks=callbacks,
        logger=loggers if dist.rank() == 0 else False,
        default_root_dir=str(folder.path),
        limit_val_batches=1.0 if validate else 0,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def quiet_lightning() -> None:
    """No tips, no device banner: what the user must know is said by us."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\.")
