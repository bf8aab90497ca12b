"""Rules over several keys: settings that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from glm_train.config.faults import KeyPath
from glm_train.config.schema import BatchSettings, ChatData, TrainerSettings, WarmUp, WsdSchedule

Conflict = tuple[str, KeyPath]


def find_conflicts(sections: dict[str, Any]) -> Iterator[Conflict]:
    """Each conflict, with the key whose place is worth showing. Sections that could not be built are None."""
    data, batch = sections.get("data"), sections.get("batch")
    if isinstance(sections.get("trainer"), TrainerSettings):
        yield from _length(sections["trainer"])
    if isinstance(sections.get("schedule"), WarmUp):
        yield from _schedule(sections["schedule"], sections.get("trainer"))
    if isinstance(data, ChatData):
        yield from _validation(data, sections.get("trainer"))
    if isinstance(batch, BatchSettings):
        yield from _batch(batch, data)


def _length(trainer: TrainerSettings) -> Iterator[Conflict]:
    if trainer.max_steps is None and trainer.max_epochs is None:
        message = "the run has no end: set trainer.max_steps or trainer.max_epochs"
        yield message, ("trainer", "max_steps")


def _schedule(schedule: WarmUp, trainer: TrainerSettings | None) -> Iterator[Conflict]:
    if schedule.warmup_steps is not None and schedule.warmup_ratio != 0:
        yield (
            "schedule.warmup_steps and schedule.warmup_ratio are two ways to say one thing: "
            "set schedule.warmup_ratio=0 or schedule.warmup_steps=null",
            ("schedule", "warmup_steps"),
        )
    max_steps = trainer.max_steps if trainer else None
    if schedule.warmup_steps is not None and max_steps is not None and schedule.warmup_steps > max_steps:
        yield (
            f"schedule.warmup_steps ({schedule.warmup_steps}) is more than trainer.max_steps ({max_steps}): "
            "the learning rate would never reach optim.lr",
            ("schedule", "warmup_steps"),
        )
    if isinstance(schedule, WsdSchedule) and schedule.warmup_ratio + schedule.decay_ratio > 1:
        yield (
            f"schedule.warmup_ratio ({schedule.warmup_ratio}) and schedule.decay_ratio "
            f"({schedule.decay_ratio}) add up to more than 1",
            ("schedule", "decay_ratio"),
        )


def _validation(data: ChatData, trainer: TrainerSettings | None) -> Iterator[Conflict]:
    if data.validation is not None and data.validation_fraction is not None:
        yield (
            "data.validation and data.validation_fraction are two sources of one thing: set one to null",
            ("data", "validation_fraction"),
        )
    no_validation = data.validation is None and data.validation_fraction is None
    if no_validation and trainer is not None and trainer.validate_every is not None:
        yield (
            "trainer.validate_every has no data: set data.validation or data.validation_fraction",
            ("trainer", "validate_every"),
        )


def _batch(batch: BatchSettings, data: ChatData | None) -> Iterator[Conflict]:
    if batch.tokens is not None and batch.documents is not None:
        yield (
            "batch.tokens and batch.documents are two ways to size a microbatch: set one of them to null",
            ("batch", "documents"),
        )
    if batch.tokens is not None and data is not None and not data.packing:
        yield (
            "batch.tokens is read only with data.packing=true; set batch.tokens=null, and batch.documents for "
            "microbatches of more than one conversation",
            ("batch", "tokens"),
        )
    if batch.tokens is not None and data is not None and batch.tokens < data.max_length:
        yield (
            f"batch.tokens ({batch.tokens}) is less than data.max_length ({data.max_length}): "
            "the longest conversations would not fit into any microbatch",
            ("batch", "tokens"),
        )
