"""Learning-rate schedules: pure functions of the step, so a resumed run needs nothing restored.

A factor multiplies the peak learning rate. `step` counts optimizer steps from 0, is the step about to be made, and ends
at total_steps - 1. With w warm-up steps, T total steps and the floor f = min_lr_ratio:

    warm-up     (step + 1) / w            step < w     no step is wasted on rate 0; the last one, w - 1, has the peak
    progress    p = (step - (w - 1)) / (T - 1 - (w - 1)), from 0 at the peak to 1 at the last step

    cosine      f + (1 - f) * (1 + cos(pi p)) / 2                (Loshchilov and Hutter, arXiv 1608.03983, one cycle)
    linear      f + (1 - f) * (1 - p)
    constant    1
    wsd         1, then over the last d = round(decay_ratio * T) steps f + (1 - f) * (1 - q)
                (warm-up, stable, decay: arXiv 2404.06395; arXiv 2405.18392 compares shapes of the decay)

where without warm-up (w = 0) step 0 has the peak, as with w = 1; and q = 1/d, 2/d, ..., 1 over the decay's d steps.
cosine and linear have exactly the floor at the last step, and so has wsd with d >= 1.
"""

from __future__ import annotations

import math

from glm_train.errors import ConfigError, nearest

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def schedule_factor(
    name: str,
    step: int,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    min_lr_ratio: float = 0.0,
    decay_ratio: float = 0.0,
) -> float:
    """The share of the peak learning rate that `step` (from 0) uses, from 0 to 1.

    `decay_ratio` is read by wsd only. Steps past the end have the last step's factor.
    Raises ConfigError for an unknown name, and where the warm-up and the decay do not fit into the run.
    """
    if name not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ConfigError(
            f"schedule.name: unknown schedule {name!r}; expected one of {known}.{nearest(name, SCHEDULES)}"
        )
    decay_steps = round(decay_ratio * total_steps) if name == "wsd" else 0
    _check_lengths(total_steps, warmup_steps, decay_steps)
    last = total_steps - 1
    step = min(step, last)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if name == "constant":
        return 1.0
    if name == "wsd":
        done = max(0, step - last + decay_steps)
        return _between(min_lr_ratio, 1 - done / decay_steps) if done else 1.0
    peak = max(warmup_steps - 1, 0)
    progress = (step - peak) / (last - peak) if last > peak else 0.0
    return _between(min_lr_ratio, _cosine(progress) if name == "cosine" else 1 - progress)


def _between(floor: float, share: float) -> float:
    """`floor` at share 0, 1 at share 1, both exactly."""
    return floor * (1 - share) + share


def _cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + math.cos(math.pi * progress)) / 2


def _check_lengths(total: int, warmup: int, decay: int) -> None:
    if total < 1:
        raise ConfigError(f"a schedule needs at least one step, not {total}")
    if warmup + decay > total:
        parts = f"the warm-up ({warmup} steps)" + (f" and the decay ({decay} steps)" if decay else "")
        verb = "do" if decay else "does"
        raise ConfigError(
            f"schedule: {parts} {verb} not fit into a run of {total} steps;"
            " lower schedule.warmup_steps, schedule.warmup_ratio or schedule.decay_ratio, or train longer"
        )
