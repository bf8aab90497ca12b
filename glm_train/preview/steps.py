"""What the previews of all tasks tell: how examples become steps, and validation examples that training has too."""

from __future__ import annotations

from dataclasses import dataclass

from glm_train.data.mask_checks import Duplicates
from glm_train.data.store import ExampleStore
from glm_train.run_plan import RunPlan, microbatches_per_epoch


@dataclass(frozen=True)
class Packing:
    """How the training examples become steps. `fill` is the share of the microbatches' room that is used."""

    microbatches: int
    fill: float | None  # None where a microbatch is a number of documents
    steps_per_epoch: int
    steps: int

    def lines(self) -> list[str]:
        """In words, a subject a line."""
        fill = "" if self.fill is None else f", {self.fill:.2%} full"
        return [
            f"{'packing':<12}{self.microbatches:,} microbatches an epoch{fill}",
            f"{'steps':<12}{self.steps_per_epoch:,} an epoch, {self.steps:,} in all",
        ]


def packing_of(plan: RunPlan, train: ExampleStore) -> Packing:
    """How the plan lays out the examples of `train`."""
    microbatches = microbatches_per_epoch(plan, train)
    room = microbatches * plan.token_budget if plan.token_budget else None
    fill = int(train.lengths.sum()) / room if room else None
    return Packing(microbatches, fill, plan.steps_per_epoch, plan.total_steps)


def leakage_faults(found: Duplicates, validation: ExampleStore | None, allowed: float) -> list[str]:
    """The broken rule, where more than a share of `allowed` of the validation examples is in training too."""
    if validation is None or found.share <= allowed:
        return []
    places = ", ".join(":".join(map(str, validation.source(i))) for i in found.first_in_both)
    return [
        f"leakage: {found.in_both:,} of {found.validation:,} validation examples ({found.share:.1%}) are also in"
        f" training; at most {allowed:.1%} may be (first: {places}). Remove them from one of the two,"
        " or allow more with --leakage"
    ]
