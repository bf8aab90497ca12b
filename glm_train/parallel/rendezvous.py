"""How the processes of a run find each other, wait for the first one, and fail together.

A launcher (ours, torchrun, or SLURM's srun) gives each process a seat. They meet at a store, a small server of texts.
What only rank 0 does (choosing the folder, preparing data) the others wait for there, however long it takes: inside a
collective they would give up after its time limit. The process group is formed afterwards.

The first rank to fail says so at the store. It alone reports; the others, whose connections break, end quietly with its
exit code.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist

from glm_train.errors import ConfigError

COLLECTIVE_LIMIT = datetime.timedelta(
    minutes=30
)  # of one collective, in which a lost rank may keep the others
STORE_LIMIT = datetime.timedelta(minutes=5)  # for all ranks to be started
LAST_WORDS = 5.0  # seconds for the rank that failed first to say so
_POLL = 0.1  # seconds between looks at the store
_FAILED = "failed"


class OtherRankFailed(Exception):
    """Another rank failed first and reports it; this one ends with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another rank failed")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Seat:
    """One process's place among all."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    hosted: bool = False  # whether the launcher runs the store; else rank 0 does
    attempt: str = "0"


def find_seat(environ: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that a launcher gave this process; None where none did. Raises `ConfigError` for half of one."""
    if environ.get("WORLD_SIZE", "") and environ.get("RANK", ""):
        wanted = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if missing := [name for name in wanted if not environ.get(name)]:
            raise ConfigError(
                f"RANK and WORLD_SIZE are set, but {' and '.join(missing)} not: start with torchrun, or unset "
                "WORLD_SIZE"
            )
        world_size = _number(environ, "WORLD_SIZE")
        return Seat(
            _number(environ, "RANK"),
            world_size,
            _number(environ, "LOCAL_RANK"),
            _number(environ, "LOCAL_WORLD_SIZE") if environ.get("LOCAL_WORLD_SIZE") else world_size,
            environ["MASTER_ADDR"],
            _number(environ, "MASTER_PORT"),
            hosted=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    if environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ConfigError(
            f"WORLD_SIZE={environ['WORLD_SIZE']} is set, but not RANK: start with torchrun, or unset WORLD_SIZE"
        )
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _slurm_seat(environ)
    return None


def _slurm_seat(environ: Mapping[str, str]) -> Seat:
    """Of a task that srun started. The first machine of the step has rank 0."""
    tasks, nodes = _number(environ, "SLURM_STEP_NUM_TASKS"), _number(environ, "SLURM_STEP_NUM_NODES")
    return Seat(
        _number(environ, "SLURM_PROCID"),
        tasks,
        _number(environ, "SLURM_LOCALID"),
        tasks // nodes,
        environ.get("MASTER_ADDR") or first_host(environ["SLURM_STEP_NODELIST"]),
        int(environ.get("MASTER_PORT") or 20000 + _number(environ, "SLURM_JOB_ID") % 20000),
    )


def first_host(nodes: str) -> str:
    """The first machine of SLURM's list: `gpu[03-05,07],cpu1` gives gpu03."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if found is None:
        raise ConfigError(f"SLURM_STEP_NODELIST={nodes}: not a list of machines; set MASTER_ADDR")
    return found[1] + (found[2] or "") + (found[3] or "")


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise ConfigError(
            f"{name}={environ.get(name)}: not a number; it is set by the launcher of several processes"
        ) from None


class Rendezvous:
    """The store as one rank sees it."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        tcp = torch_dist.TCPStore(
            seat.address,
            seat.port,
            seat.world_size,
            is_master=seat.rank == 0 and not seat.hosted,
            timeout=STORE_LIMIT,
            wait_for_workers=False,
        )
        self.store = torch_dist.PrefixStore(f"glm-train/{seat.attempt}", tcp)

    def first(self, key: str, work: Callable[[], Any]) -> Any:
        """What `work` gives on rank 0, as plain JSON, on every rank; the others wait."""
        if self.seat.rank == 0:
            result = work()
            self.store.set(key, json.dumps(result))
            return result
        while not self.store.check([key]):
            if (code := self._failure()) is not None:
                raise OtherRankFailed(code)
            time.sleep(_POLL)
        return json.loads(self.store.get(key))

    def form_group(self, device: str) -> None:
        """Make the process group, when all ranks are here: gloo for the CPU, and NCCL beside it on GPUs."""
        if device == "cuda":
            torch.cuda.set_device(self.seat.local_rank)
        torch_dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            store=torch_dist.PrefixStore("group", self.store),
            rank=self.seat.rank,
            world_size=self.seat.world_size,
            timeout=COLLECTIVE_LIMIT,
        )

    def claim_failure(self, code: int, *, patience: float = 0.0) -> int | None:
        """Say that this rank failed with exit code `code`: None where it is the first, else the first one's code.

        `patience`: the failure looks like the consequence of another's, who is given so many seconds to say so.
        """
        try:
            until = time.monotonic() + patience
            while (known := self._failure()) is None and time.monotonic() < until:
                time.sleep(_POLL)
            if known is not None:
                return known
            mine = f"{self.seat.rank} {code}"
            said = self.store.compare_set(_FAILED, "", mine).decode()
            return None if said == mine else int(said.split()[1])
        except (RuntimeError, torch_dist.DistError):
            return code if patience else None  # the store is gone, and its host with it

    def _failure(self) -> int | None:
        return int(self.store.get(_FAILED).decode().split()[1]) if self.store.check([_FAILED]) else None


class Output:
    """Where a rank other than 0 writes: nowhere at first, then to its log; its last words go to the terminal."""

    def __init__(self) -> None:
        self._terminal = os.dup(2)
        self._early = tempfile.TemporaryFile()  # noqa: SIM115
        self._point(self._early.fileno())

    def keep(self, log: Path) -> None:
        """Write into `log` from now on, what was written before first."""
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self._early.seek(0)
        with log.open("ab") as file:
            file.write(self._early.read())
            file.flush()
            self._point(file.fileno())
        self._early.close()

    def last_words(self, text: str) -> None:
        os.write(self._terminal, text.encode(errors="backslashreplace"))

    def _point(self, descriptor: int) -> None:
        for standard in (1, 2):
            os.dup2(descriptor, standard)
