"""Rules over several keys: settings that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glm_train.config.data_settings import (
    DATA_OF,
    ChatTask,
    DataSettings,
    SequenceClassification,
    SequenceData,
    TokenData,
)
from glm_train.config.model_settings import PURE_BF16, GlmModelSettings, LoraAdapter, NoAdapter, QloraAdapter
from glm_train.config.schema import (
    BatchSettings,
    FullySharded,
    SamplesSettings,
    SingleDevice,
    TrainerSettings,
    WarmUp,
    WsdSchedule,
)

_MOST_DEVICES = 1024
Conflict = tuple[str, tuple[str, ...]]


def find_conflicts(sections: dict[str, Any]) -> Iterator[Conflict]:
    """Each conflict, with the keys that make it, that of the cure first. Sections that could not be built are None."""
    task, data, batch = sections.get("task"), sections.get("data"), sections.get("batch")
    trainer = sections.get("trainer")
    if isinstance(trainer, TrainerSettings):
        yield from _length(trainer)
    if isinstance(sections.get("schedule"), WarmUp):
        yield from _schedule(sections["schedule"], trainer)
    if task is not None and isinstance(data, DataSettings):
        yield from _task(task, data)
    if isinstance(data, DataSettings):
        yield from _validation(data, trainer)
    if isinstance(batch, BatchSettings):
        yield from _batch(batch, data)
    samples = sections.get("samples")
    if isinstance(samples, SamplesSettings) and samples.every is not None and isinstance(data, DataSettings):
        yield from _samples(task, data)
    if isinstance(sections.get("model"), GlmModelSettings):
        yield from _model(sections["model"], task, sections.get("adapter"), trainer)
    if isinstance(trainer, TrainerSettings):
        yield from _parallel(sections.get("parallel"), sections.get("adapter"), trainer)


def _parallel(parallel: Any, adapter: Any, trainer: TrainerSettings) -> Iterator[Conflict]:
    processes = trainer.devices * trainer.num_nodes
    if trainer.devices > _MOST_DEVICES:
        yield (
            f"trainer.devices={trainer.devices} would start as many processes; no machine has more than {_MOST_DEVICES}"
            " devices",
            ("trainer.devices",),
        )
    if isinstance(parallel, SingleDevice) and processes > 1:
        key = "devices" if trainer.devices > 1 else "num_nodes"
        yield (
            f"trainer.{key} asks for {processes} processes, and parallel=single is one: add parallel=fsdp (the model "
            "is shared out) or parallel=ddp (each has it whole)",
            (f"trainer.{key}", "parallel.name"),
        )
    if isinstance(parallel, FullySharded) and isinstance(adapter, QloraAdapter):
        yield (
            f"parallel={parallel.name} cannot share out weights of 4 bits: use parallel=ddp, or adapter=lora",
            ("parallel.name", "adapter.name"),
        )
    if isinstance(parallel, FullySharded) and parallel.offload and trainer.accelerator == "cpu":
        yield (
            "parallel.offload moves weights from the GPU to the CPU, and trainer.accelerator is cpu: set it to false",
            ("parallel.offload", "trainer.accelerator"),
        )


def _task(task: Any, data: DataSettings) -> Iterator[Conflict]:
    wanted, chosen = DATA_OF[task.name], data.name  # type: ignore[attr-defined]
    if chosen != wanted:
        other = next(name for name, read in DATA_OF.items() if read == chosen)
        yield (
            f"task={task.name} reads data={wanted}, and data={chosen} is chosen: use data={wanted}, or task={other}",
            ("data.name", "task.name"),
        )
    if isinstance(task, SequenceClassification):
        if task.class_weights != "none" and task.problem in ("multi_label", "regression"):
            yield (
                f"task.class_weights weighs single labels, and task.problem is {task.problem}: set it to none",
                ("task.class_weights", "task.problem"),
            )
        if task.problem == "regression" and task.labels is not None:
            yield (
                "task.labels names classes, and task.problem is regression: set one of them to its default",
                ("task.labels", "task.problem"),
            )
        single = task.problem in ("single_label", "regression")
        if single and isinstance(data, SequenceData) and data.label_separator is not None:
            yield (
                f"data.label_separator is for several labels, and task.problem is {task.problem}",
                ("data.label_separator", "task.problem"),
            )
    if isinstance(data, TokenData) and data.overlap is not None and data.overlap >= data.max_length:
        yield (
            f"data.overlap ({data.overlap}) must be less than data.max_length ({data.max_length})",
            ("data.overlap", "data.max_length"),
        )


def _samples(task: Any, data: DataSettings) -> Iterator[Conflict]:
    if task is not None and not isinstance(task, ChatTask):
        yield "samples.every makes a chat model answer: set it to null", ("samples.every", "task.name")
    elif data.validation is None and data.validation_fraction is None:
        yield (
            "samples.every takes its prompts from the validation data: set data.validation or data.validation_fraction",
            ("samples.every", "data.validation", "data.validation_fraction"),
        )


def _model(
    model: GlmModelSettings, task: Any, adapter: Any, trainer: TrainerSettings | None
) -> Iterator[Conflict]:
    if model.bidirectional and isinstance(task, ChatTask):
        yield (
            "model.bidirectional=true lets tokens see what they are to predict: it is for classification",
            ("model.bidirectional", "task.name"),
        )
    if model.dtype == "bf16" and isinstance(adapter, NoAdapter):
        yield f"model.dtype=bf16: {PURE_BF16}", ("model.dtype", "adapter.name")
    mixed = trainer is None or trainer.precision == "bf16-mixed"
    if model.dtype == "bf16" and isinstance(adapter, LoraAdapter) and not mixed:
        yield (
            "model.dtype=bf16 computes in bf16: set trainer.precision=bf16-mixed, or model.dtype=fp32",
            ("model.dtype", "trainer.precision"),
        )
    if isinstance(adapter, QloraAdapter) and adapter.init in ("pissa", "olora"):
        yield (
            f"adapter.init={adapter.init} changes the base's weights, which adapter=qlora holds in 4 bits: use default",
            ("adapter.init", "adapter.name"),
        )


def _length(trainer: TrainerSettings) -> Iterator[Conflict]:
    if trainer.max_steps is None and trainer.max_epochs is None:
        message = "the run has no end: set trainer.max_steps or trainer.max_epochs"
        yield message, ("trainer.max_steps", "trainer.max_epochs")


def _schedule(schedule: WarmUp, trainer: TrainerSettings | None) -> Iterator[Conflict]:
    if schedule.warmup_steps is not None and schedule.warmup_ratio != 0:
        yield (
            "schedule.warmup_steps and schedule.warmup_ratio are two ways to say one thing: "
            "set schedule.warmup_ratio=0 or schedule.warmup_steps=null",
            ("schedule.warmup_steps", "schedule.warmup_ratio"),
        )
    max_steps = trainer.max_steps if trainer else None
    if schedule.warmup_steps is not None and max_steps is not None and schedule.warmup_steps > max_steps:
        yield (
            f"schedule.warmup_steps ({schedule.warmup_steps}) is more than trainer.max_steps ({max_steps}): "
            "the learning rate would never reach optim.lr",
            ("schedule.warmup_steps", "trainer.max_steps"),
        )
    if isinstance(schedule, WsdSchedule) and schedule.warmup_ratio + schedule.decay_ratio > 1:
        yield (
            f"schedule.warmup_ratio ({schedule.warmup_ratio}) and schedule.decay_ratio "
            f"({schedule.decay_ratio}) add up to more than 1",
            ("schedule.decay_ratio", "schedule.warmup_ratio"),
        )


def _validation(data: DataSettings, trainer: TrainerSettings | None) -> Iterator[Conflict]:
    if data.validation is not None and data.validation_fraction is not None:
        yield (
            "data.validation and data.validation_fraction are two sources of one thing: set one to null",
            ("data.validation_fraction", "data.validation"),
        )
    no_validation = data.validation is None and data.validation_fraction is None
    if no_validation and trainer is not None and trainer.validate_every is not None:
        yield (
            "trainer.validate_every has no data: set data.validation or data.validation_fraction",
            ("trainer.validate_every", "data.validation", "data.validation_fraction"),
        )
    if no_validation and trainer is not None and (trainer.result == "best" or trainer.patience is not None):
        key = "patience" if trainer.result == "last" else "result"
        yield (
            f"trainer.{key} compares validations: set data.validation or data.validation_fraction",
            (f"trainer.{key}", "data.validation", "data.validation_fraction"),
        )


def _batch(batch: BatchSettings, data: DataSettings | None) -> Iterator[Conflict]:
    if batch.tokens is not None and batch.documents is not None:
        yield (
            "batch.tokens and batch.documents are two ways to size a microbatch: set one of them to null",
            ("batch.documents", "batch.tokens"),
        )
    if batch.tokens is not None and data is not None and not data.packing:
        yield (
            "batch.tokens is read only with data.packing=true; set batch.tokens=null, and batch.documents for "
            "microbatches of more than one example",
            ("batch.tokens", "data.packing"),
        )
    if batch.tokens is not None and data is not None and batch.tokens < data.max_length:
        yield (
            f"batch.tokens ({batch.tokens}) is less than data.max_length ({data.max_length}): "
            "the longest examples would not fit into any microbatch",
            ("batch.tokens", "data.max_length"),
        )
