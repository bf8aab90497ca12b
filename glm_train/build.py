"""Settings become objects here and nowhere else."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from glm_train.build_data import config_changes
from glm_train.callbacks.csv_logger import CsvLogger
from glm_train.callbacks.loggers import tensorboard_logger, wandb_logger
from glm_train.callbacks.metrics import MetricsLogger
from glm_train.callbacks.peak_flops import peak_flops
from glm_train.callbacks.preemption import StopOnSignal
from glm_train.callbacks.progress import ProgressReport
from glm_train.callbacks.resume import Resumed, ResumeState
from glm_train.callbacks.validation import ValidationSchedule
from glm_train.checkpoint.pretrained import GlmForCausalLM
from glm_train.config.schema import TensorBoardLogger, WandbLogger
from glm_train.data.datamodule import GlmDataModule
from glm_train.data.store import ExampleStore
from glm_train.errors import ConfigError
from glm_train.model.flops import training_flops
from glm_train.optim.groups import parameter_groups
from glm_train.optim.optimizers import build_optimizer
from glm_train.optim.schedules import schedule_factor
from glm_train.parallel.parallelize import parallelize
from glm_train.run_folder import RunFolder
from glm_train.run_plan import RunPlan
from glm_train.tasks.chat import ChatTask

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

_PRECISION = {"fp32": "32-true", "bf16-mixed": "bf16-mixed"}


def device_type(config: RunConfig) -> str:
    """`cpu` or `cuda`; refuses a GPU that is not there."""
    if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here; use trainer.accelerator=cpu")
    return "cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def build_model(config: RunConfig) -> GlmForCausalLM:
    """The model with its weights in fp32, ready to be trained."""
    if config.model.attention == "varlen" and (
        device_type(config) == "cpu" or config.trainer.precision == "fp32"
    ):
        raise ConfigError(
            "model.attention=varlen needs a GPU and trainer.precision=bf16-mixed; use model.attention=auto"
        )
    if config.model.attention == "flex" and device_type(config) == "cpu":
        raise ConfigError(
            "model.attention=flex: torch cannot train with it on a CPU; use model.attention=auto"
        )
    changes = config_changes(config)
    model = GlmForCausalLM.from_pretrained(config.model.path, dtype=torch.float32, **changes).train()
    model.model.set_attention(config.model.attention)
    parallelize(
        model,
        activation_checkpointing=config.parallel.activation_checkpointing,
        compile=config.parallel.compile,
    )
    return model


def build_task(config: RunConfig, model: GlmForCausalLM, plan: RunPlan) -> ChatTask:
    optim, schedule = config.optim, config.schedule

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(module, optim.weight_decay)
        return build_optimizer(optim.name, groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)

    def learning_rate(step: int) -> float:
        return optim.lr * schedule_factor(
            schedule.name,
            step,
            total_steps=plan.total_steps,
            warmup_steps=schedule.resolve_warmup(plan.total_steps),
            min_lr_ratio=schedule.min_lr_ratio,
            decay_ratio=schedule.decay_ratio,
        )

    learning_rate(0)  # a schedule that does not fit the run is refused here, before anything is written
    return ChatTask(model, optimizer=optimizer, learning_rate=learning_rate, clip_norm=optim.clip_norm)


def build_datamodule(
    config: RunConfig, plan: RunPlan, train: ExampleStore, validation: ExampleStore | None, start_step: int
) -> GlmDataModule:
    longest = 0 if validation is None else int(validation.lengths.max())
    return GlmDataModule(
        train,
        validation,
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
    )


def build_callbacks(
    config: RunConfig,
    folder: RunFolder,
    plan: RunPlan,
    train: ExampleStore,
    model: GlmForCausalLM,
    *,
    validate: bool,
    position: dict[str, Any],
    resumed: Resumed | None,
) -> list[Callback]:
    peak = peak_flops(torch.cuda.get_device_name()) if device_type(config) == "cuda" else None
    flops = training_flops(model.config, train.lengths.tolist(), int(train.trained.sum()))
    metrics = MetricsLogger(
        log_every=config.trainer.log_every,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        flops_per_token=flops / int(train.lengths.sum()),
        peak_flops=peak,
        tokens_before=resumed.tokens if resumed else 0,
    )
    every = config.trainer.validate_every or plan.steps_per_epoch
    validation = ValidationSchedule(every, plan.total_steps, enabled=validate)
    state = ResumeState(
        folder.checkpoints,
        every=config.trainer.save_every or plan.steps_per_epoch,
        keep=config.trainer.keep,
        position=position,
        metrics=metrics,
        validation=validation,
        resumed=resumed,
    )
    # Order matters: values are logged before they are shown, and all rows of a step before its state is saved.
    return [validation, metrics, ProgressReport(metrics), state, StopOnSignal(state.save, plan.total_steps)]


def build_loggers(config: RunConfig, folder: RunFolder, resumed_step: int) -> list[Logger]:
    """metrics.csv, always, and the logger that was chosen."""
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
    return Trainer(
        accelerator=device_type(config),
        devices=1,
        precision=_PRECISION[config.trainer.precision],  # type: ignore[arg-type]
        max_epochs=1,  # the loader runs through all epochs of the plan as one
        callbacks=callbacks,
        logger=loggers,
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
