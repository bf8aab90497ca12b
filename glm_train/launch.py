"""Several processes for one run: started here by the launcher of torch, or found already started.

`start` is the parent: it refuses what can be refused, prepares the data, starts a process for each device, passes
signals on to them and ends when they do. `as_rank` is each of them. Under torchrun or SLURM there is no parent of ours.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as torch_dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, PContext, start_processes

from glm_train.bar import progress_bar
from glm_train.build_data import build_data, build_tokenizer
from glm_train.build_model import check_attention, device_type, shard_size
from glm_train.errors import ConfigError, FailedElsewhere, GlmTrainError
from glm_train.parallel.rendezvous import LAST_WORDS, OtherRankFailed, Output, Rendezvous, Seat
from glm_train.parallel.signals import SIGNALS, Stopped, unheard
from glm_train.run_folder import choose_run_folder

if TYPE_CHECKING:
    from glm_train.config.schema import RunConfig

_PARENT = "GLM_TRAIN_PARENT"  # its process id, in the environment of the processes it starts
_GRACE = 15.0  # seconds in which the other ranks end by themselves, once one has failed
_GRACE_SAVED = 120.0  # the same once one has stopped with the state saved


def start(config: RunConfig, recipe: str, overrides: Sequence[str]) -> int:
    """Run `glm-train fit recipe overrides` in a process for each device of this machine; the run's exit code.

    Raises `GlmTrainError` for what is wrong before any of them is started.
    """
    processes = config.trainer.devices
    if config.trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={config.trainer.num_nodes}: one command starts the processes of one machine. Start it "
            "on each machine with torchrun, or once with srun: see docs/distributed.md"
        )
    check_places(config, processes, processes)
    choose_run_folder(recipe, config.output_dir, config.resume)
    check_attention(config)
    with progress_bar() as progress:
        build_data(config, *build_tokenizer(config), progress)
    store = torch_dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it ourselves
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # torch would kill after 30 seconds
    ranks = _Ranks(store)
    before = {number: signal.signal(number, ranks.pass_on) for number in SIGNALS}
    try:
        command = ("-m", "glm_train", "fit", recipe, *overrides)
        ranks.processes = start_processes(
            "glm-train",
            sys.executable,
            args=dict.fromkeys(range(processes), command),
            envs={rank: _environment(rank, processes, store.port) for rank in range(processes)},
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        )
        ranks.send()
        return ranks.wait()
    finally:
        if ranks.processes is not None:
            ranks.processes.close(signal.SIGKILL, timeout=5)
        for number, handler in before.items():
            signal.signal(number, handler)


def check_places(config: RunConfig, world_size: int, local_world_size: int) -> None:
    """Raise `ConfigError` where there are more processes than devices, or they cannot be grouped as asked."""
    if device_type(config) == "cuda" and local_world_size > (found := torch.cuda.device_count()):
        raise ConfigError(
            f"trainer.devices={local_world_size}: torch sees {found} GPU{'s' if found != 1 else ''} here; "
            f"use trainer.devices={found}"
        )
    shard_size(config, world_size)


def as_rank(
    seat: Seat, config: RunConfig, work: Callable[[RunConfig, Rendezvous, Output | None], int]
) -> int:
    """Do this process's part of a run, and end the process where it fails: others may hold it up for ever."""
    _end_with_parent()
    output = Output() if seat.rank > 0 else None
    meeting: Rendezvous | None = None
    try:
        meeting = Rendezvous(seat)
        code = work(settle(config, seat), meeting, output)
        torch_dist.destroy_process_group()
        return code
    except OtherRankFailed as failed:
        code = failed.exit_code
    except Stopped as stopped:
        with unheard():
            code = _say_stopped(stopped, meeting, output)
    except BaseException as error:
        with unheard():
            code = _report(error, meeting, output)
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def settle(config: RunConfig, seat: Seat) -> RunConfig:
    """The configuration with the devices and machines that the launcher has. Raises `ConfigError` where it differs."""
    if config.parallel.name == "single":
        if seat.world_size == 1:
            return config
        raise ConfigError(
            f"{seat.world_size} processes were launched, and parallel=single is one: add parallel=fsdp or "
            "parallel=ddp, or unset WORLD_SIZE"
        )
    trainer = config.trainer
    asked = trainer.devices * trainer.num_nodes
    if asked not in (1, seat.world_size):
        raise ConfigError(
            f"trainer.devices x trainer.num_nodes is {asked}, and {seat.world_size} processes were launched: make them "
            "equal, or leave both out"
        )
    if asked != seat.world_size:
        nodes = seat.world_size // seat.local_world_size
        config = replace(config, trainer=replace(trainer, devices=seat.local_world_size, num_nodes=nodes))
    check_places(config, seat.world_size, seat.local_world_size)
    return config


def _say_stopped(stopped: Stopped, meeting: Rendezvous | None, output: Output | None) -> int:
    """Say why the run ends, once of all ranks; the exit code. Stopped after a save, all of them stop together."""
    if stopped.at_once and meeting is not None:
        first = meeting.claim_failure(stopped.exit_code)
        if first is not None:
            return first
    elif output is not None:
        return stopped.exit_code
    _tell(f"glm-train: {stopped}{stopped.advice}\n", output)
    return stopped.exit_code


def _report(error: BaseException, meeting: Rendezvous | None, output: Output | None) -> int:
    """Report a failure unless another rank failed first; the exit code."""
    ours = isinstance(error, GlmTrainError)
    code = error.exit_code if isinstance(error, GlmTrainError) else 1
    if meeting is not None:
        first = meeting.claim_failure(code, patience=_patience(error))
        if first is not None:
            return first
    rank = "" if output is None else f" (rank {meeting.seat.rank if meeting else '?'})"
    if ours:
        head, *rest = str(error).splitlines() or [""]
        text = "\n".join([f"glm-train: error: {head}", *(f"  {line}" for line in rest)]) + "\n"
    else:
        text = "".join(traceback.format_exception(error)) + f"glm-train: failed{rank}, as shown above\n"
    _tell(text, output)
    return code


def _patience(error: BaseException) -> float:
    """How long to wait for the rank whose failure this may be the consequence of."""
    if isinstance(error, FailedElsewhere):
        return 3 * LAST_WORDS  # that one may be patient itself
    # When a rank is gone, the collectives of the others fail.
    return LAST_WORDS if isinstance(error, RuntimeError) else 0.0


def _tell(text: str, output: Output | None) -> None:
    """To the terminal, and to the log of a rank other than 0."""
    with suppress(OSError):  # the terminal may be gone
        if output is not None:
            output.last_words(text)
        sys.stderr.write(text)


class _Ranks:
    """The processes of a run, as their parent sees them."""

    def __init__(self, store: Any) -> None:
        self.processes: PContext | None = None
        self._store = torch_dist.PrefixStore("glm-train/0", store)
        self._asked = 0
        self._until = float("inf")  # then those that are left are killed

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """A signal to this process is one to all ranks, which have sessions of their own."""
        if self._asked and number == signal.SIGINT:
            # A rank that waits for another cannot hear it.
            self._until = min(self._until, time.monotonic() + _GRACE)
        self._asked = number
        self.send()

    def send(self) -> None:
        """Also what came while the processes were being started."""
        for pid in self._pids().values():
            if self._asked and _exit_code(pid) is None:
                os.kill(pid, self._asked)

    def wait(self) -> int:
        """Until all have ended; where one fails the others have `_GRACE` seconds."""
        first: int | None = None
        while True:
            codes = {rank: _exit_code(pid) for rank, pid in self._pids().items()}
            failed = {rank: code for rank, code in codes.items() if code}
            if first is None and failed:
                first = self._first(failed)
                saved = first in (130, 143) and not self._store.check(["failed"])
                self._until = min(self._until, time.monotonic() + (_GRACE_SAVED if saved else _GRACE))
            if None not in codes.values():
                return first or 0
            if time.monotonic() > self._until:
                print(
                    "glm-train: the other processes did not end by themselves and are killed", file=sys.stderr
                )
                return first or (128 + self._asked if self._asked else 1)
            time.sleep(0.1)

    def _first(self, failed: dict[int, int]) -> int:
        """The exit code of the run once processes have failed; says why where the process could not."""
        if ended := {rank: code for rank, code in failed.items() if code > 0}:
            rank, code = next(iter(ended.items()))
            if code not in (130, 143) and self._claim(rank, code):
                text = f"error: rank {rank} ended with exit code {code}"
                print(f"glm-train: {text}. The other ranks end", file=sys.stderr, flush=True)
            return code
        rank, number = next((rank, -code) for rank, code in failed.items())
        code = 143 if number == signal.SIGTERM else 1
        if number == self._asked:  # it came before the process could have a handler for it
            code = 128 + number
            text = f"stopped by {signal.Signals(number).name} before the first step: nothing is lost"
        else:
            cause = ": out of memory, as a rule" if number == signal.SIGKILL else ""
            text = (
                f"error: rank {rank} was killed by {signal.Signals(number).name}{cause}. The other ranks end; go on "
                "with resume=auto"
            )
        self._claim(rank, code)
        print(f"glm-train: {text}", file=sys.stderr, flush=True)
        return code

    def _claim(self, rank: int, code: int) -> bool:
        """Say to the others that this one has failed; whether nobody had said so of any."""
        if self._store.check(["failed"]):
            return False
        self._store.set("failed", f"{rank} {code}")
        return True

    def _pids(self) -> dict[int, int]:
        return self.processes.pids() if self.processes is not None else {}


def _exit_code(pid: int) -> int | None:
    """A child's exit code (below 0: the signal that killed it), None while it runs. It is left for torch to reap."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun gives its processes, by the same names."""
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    values = (rank, rank, processes, processes, port)
    return {
        **dict(zip(names, map(str, values), strict=True)),
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "OMP_NUM_THREADS": threads,
        _PARENT: str(os.getpid()),
    }


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when our parent dies: nobody else would tell us."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    set_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGTERM))
    if os.getppid() != int(parent):
        os._exit(143)
