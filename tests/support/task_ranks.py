"""Runs and descents by groups of processes on this machine.

A fresh process needs seven seconds to import what it runs. So one server imports it, once for all groups, and each
process of a group is a fork of it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch

LIMIT = 500  # seconds, many times what it takes: the machine may be busy
IMPORTED = ("support.task_ranks", "support.plain_descent", "glm_train.run", "glm_train.launch", "peft")


@dataclass
class Work:
    """What a group of processes has to do, in this order: runs of `chat_smoke`, each its overrides, and descents (see
    `plain_descent.py`), each its kind, its way and the file of its results."""

    fits: list[list[str]] = field(default_factory=list)
    descents: list[tuple[str, str, Path]] = field(default_factory=list)


def work_together(work: Work, processes: int) -> None:
    """Do it in a group of processes, which must end by itself: one that waits for another for ever does not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seats = {"WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {name: str(value) for name, value in seats.items()}
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(list(IMPORTED))
    with mock.patch.dict(os.environ, environment):
        group = torch.multiprocessing.start_processes(
            _rank, (environment, work), nprocs=processes, join=False, start_method="forkserver"
        )
    assert group is not None
    end = time.monotonic() + LIMIT
    try:
        while not group.join(timeout=5):
            assert time.monotonic() < end, "the processes wait for each other"
    finally:
        for process in group.processes:
            process.kill()


def work_alone(work: Work) -> None:
    """Do it in this process, which no launcher has started."""
    from glm_train import run
    from glm_train.config.compose import compose
    from support.plain_descent import descend

    for overrides in work.fits:
        run.fit(compose("chat_smoke", overrides), "test")
    for kind, way, output in work.descents:
        descend(kind, way, output)


def _rank(rank: int, environment: dict[str, str], work: Work) -> None:
    os.environ.clear()  # the server may have been started with other settings
    os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    from glm_train import run
    from glm_train.config.compose import compose
    from glm_train.launch import settle
    from glm_train.parallel.rendezvous import Rendezvous, find_seat
    from support.plain_descent import descend
    from support.rank_runs import SameGroup

    torch.set_num_threads(1)
    seat = find_seat()
    assert seat is not None
    Rendezvous(seat).form_group("cpu")
    for overrides in work.fits:
        run.fit(settle(compose("chat_smoke", overrides), seat), "test", SameGroup(seat))
    for kind, way, output in work.descents:
        descend(kind, way, output)
    torch.distributed.destroy_process_group()
