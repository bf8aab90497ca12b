"""`glm-train fit -m`: every combination of swept values, one job after the other, each a process.

    optim.lr=1e-4,1e-5 seed=range(0,3)     ->     6 jobs; the last key varies fastest

The grammar of sweeps is Hydra's (`a,b`, `choice(a,b)`, `range(start,stop,step)`); the launching is ours, so
that a job is exactly what `glm-train fit` runs, with its own run folder, and one that fails does not stop the
others. All configurations are checked before the first job starts.
"""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from types import FrameType

from glm_train.config.compose import compose, recipe_label
from glm_train.config.overrides import Setting, parse_override
from glm_train.config.paths import expand_home
from glm_train.errors import ConfigError, GlmTrainError

FIT = (sys.executable, "-m", "glm_train.cli.main", "fit")
_MOST_JOBS = 10_000
_LONGEST_NAME = 120  # characters; file systems allow 255 bytes


@dataclass(frozen=True)
class Job:
    """One point of a sweep."""

    label: str  # the swept keys with their values
    overrides: tuple[str, ...]
    output_dir: Path


def plan_sweep(recipe: str, overrides: Sequence[str], now: str | None = None) -> list[Job]:
    """The jobs of a sweep, in order, checked.

    Args:
        recipe: name or path.
        overrides: as on the command line; `output_dir=DIR` is the folder that holds the jobs' run folders, by
            default `runs/<recipe>/<time>`.
        now: the time part of that default, for example `2026-01-31_12-00-00`.

    Raises:
        ConfigError: an override that cannot be read, or a job whose configuration is wrong.
    """
    base, others = _split_output_dir(overrides)
    label = recipe_label(recipe)
    folder = base or Path("runs") / label / (now or time.strftime("%Y-%m-%d_%H-%M-%S"))
    _refuse_file(folder)
    values = [list(islice(_values(argument), _MOST_JOBS + 1)) for argument in others]
    if math.prod(map(len, values)) > _MOST_JOBS:
        raise ConfigError(f"No job was started: more than {_MOST_JOBS:,} jobs. Sweep over fewer values.")
    jobs = []
    for index, point in enumerate(product(*values)):
        swept = [value for value, argument in zip(point, others, strict=True) if value != argument]
        name = ",".join(swept)
        output_dir = folder / _file_name(f"{index}_{name}" if name else str(index))
        jobs.append(Job(name, (*point, f"output_dir={quoted(str(output_dir))}"), output_dir))
    for job in jobs:
        try:
            compose(recipe, job.overrides)
        except GlmTrainError as error:
            raise ConfigError(
                f"No job was started: {job.label or 'the only job'} is wrong.\n{error}"
            ) from error
    return jobs


def _refuse_file(folder: Path) -> None:
    """Raise `ConfigError` where a file is in the way of the jobs' folder."""
    try:
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise ConfigError(
                    f"output_dir={folder}: {place} is a file, not a folder. Choose another folder"
                )
    except OSError as error:  # a name too long
        raise ConfigError(f"output_dir={folder}: cannot be used: {error.strerror}") from None


def sweep(recipe: str, overrides: Sequence[str], command: Sequence[str] = FIT) -> int:
    """Run the jobs of a sweep one after the other and print a line for each.

    Args:
        recipe: name or path.
        overrides: as on the command line, with swept values.
        command: what is run for a job, before the recipe and its overrides.

    Returns:
        0, or the exit code of the first job that failed; 130 or 143 when the sweep itself was stopped.
    """
    jobs = plan_sweep(recipe, overrides)
    first_failure = 0
    for index, job in enumerate(jobs):
        started = time.monotonic()
        code, stopped = _run_job([*command, recipe, *job.overrides])
        took = time.monotonic() - started
        outcome = "done" if code == 0 else f"failed with exit code {code}"
        print(
            f"[{index + 1}/{len(jobs)}] {job.label or recipe}: {outcome}, {took:.0f} s, {job.output_dir}",
            flush=True,
        )
        if stopped:
            print(f"sweep stopped; {len(jobs) - index - 1} jobs were not started", file=sys.stderr)
            return stopped
        first_failure = first_failure or code
    return first_failure


def quoted(text: str) -> str:
    """The text as a quoted string of Hydra's grammar, which reads it back letter for letter."""
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _split_output_dir(overrides: Sequence[str]) -> tuple[Path | None, list[str]]:
    base, others = None, []
    for argument in overrides:
        override = parse_override(argument)
        if isinstance(override, Setting):
            is_output_dir, value = override.path == ("output_dir",), override.value
        elif override.is_sweep_override() and override.key_or_group == "output_dir":
            raise ConfigError(
                f"`{argument}`: every job of a sweep gets a folder of its own inside one output_dir."
            )
        else:
            is_output_dir = override.key_or_group == "output_dir" and not override.is_delete()
            value = override.value() if is_output_dir else None
        if is_output_dir and value is not None:
            base = expand_home(str(value))
        elif not is_output_dir:
            others.append(argument)
    return base, others


def _values(argument: str) -> Iterator[str]:
    """The arguments, one value each, that an argument with a sweep stands for."""
    override = parse_override(argument)
    if isinstance(override, Setting) or not override.is_sweep_override():
        yield argument
        return
    if override.is_interval_sweep():
        raise ConfigError(
            f"`{argument}`: an interval has no list of values; write a,b,c or range(start,stop,step)."
        )
    for value in override.sweep_string_iterator():
        yield f"{override.key_or_group}={value}"


def _file_name(text: str) -> str:
    """The text with everything replaced that a file name, a shell or a URL could stumble over."""
    return re.sub(r"[^\w=.,+-]+", "-", text)[:_LONGEST_NAME].rstrip("-., ")


def _run_job(command: Sequence[str]) -> tuple[int, int]:
    """Run one job to its end.

    Returns:
        Its exit code, and the exit code of the sweep if a signal asked the sweep to stop, else 0.
        Ctrl-C reaches the job by itself; SIGTERM is passed on. Either way the job is given the time to save.
    """
    stopped = 0
    job = subprocess.Popen(list(command))

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        del frame
        stopped = 128 + number
        if number == signal.SIGTERM:
            job.terminate()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = job.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), stopped
