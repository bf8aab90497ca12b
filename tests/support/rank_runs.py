"""Several runs by one group of processes on this machine: starting a group takes longer than a tiny run.

As a program it is one of the processes: its arguments are a file of jobs, each the overrides of a run of `chat_smoke`.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
LIMIT = 240  # seconds


def run_together(jobs: Sequence[Sequence[str]], processes: int, place: Path) -> None:
    """Run all jobs, one after the other. `place` is a folder for their list."""
    listed = place / "jobs.json"
    listed.write_text(json.dumps([list(job) for job in jobs]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(SUPPORT.parent.parent), str(SUPPORT.parent)]),
    }
    command = [sys.executable, __file__, str(listed)]
    ranks = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [rank.communicate(timeout=LIMIT)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * processes, "\n".join(said)


class SameGroup:
    """A meeting of processes that are a group already."""

    def __init__(self, seat: Any) -> None:
        self.seat = seat

    def first(self, key: str, work: Any) -> Any:
        from glm_train import dist

        return dist.from_rank_0(work() if self.seat.rank == 0 else None)

    def form_group(self, device: str) -> None:
        """It is formed."""


def main(listed: Path) -> None:
    from glm_train import run
    from glm_train.config.compose import compose
    from glm_train.launch import settle
    from glm_train.parallel.rendezvous import Rendezvous, find_seat

    seat = find_seat()
    assert seat is not None
    Rendezvous(seat).form_group("cpu")
    for job in json.loads(listed.read_text()):
        run.fit(settle(compose("chat_smoke", job), seat), "test", SameGroup(seat))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
