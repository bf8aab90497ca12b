"""Several runs by groups of processes on this machine. Loading torch and Lightning takes longer than a tiny run, so one
program loads them and forks the processes of each group.

As a program it takes a file of phases: how many processes, and the overrides of each run of `chat_smoke` that they do.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
LIMIT = 540  # seconds


@dataclass(frozen=True)
class Phase:
    """`jobs` are done one after the other by `processes`. Before that, runs are copied as they were after a step."""

    processes: int
    jobs: Sequence[Sequence[str]]
    cut_back: Sequence[tuple[str, str, int]] = ()  # from, to, step


def run_together(jobs: Sequence[Sequence[str]], processes: int, place: Path) -> None:
    """Run all jobs, one after the other. `place` is a folder for their list."""
    run_phases([Phase(processes, jobs)], place)


def run_phases(phases: Sequence[Phase], place: Path) -> None:
    """Run all phases, one after the other. `place` is a folder for their list."""
    listed = place / "phases.json"
    listed.write_text(json.dumps([asdict(phase) for phase in phases]))
    paths = os.pathsep.join([str(SUPPORT.parent.parent), str(SUPPORT.parent)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.Popen(
        [sys.executable, __file__, str(listed)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said = done.communicate(timeout=LIMIT)[0]
    finally:
        if done.poll() is None:
            os.killpg(done.pid, signal.SIGKILL)  # the processes it forked, too
    assert done.returncode == 0, said


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
    import glm_train.launch
    import glm_train.run  # noqa: F401
    from support.fitted import cut_back

    for phase in json.loads(listed.read_text()):
        for whole, part, step in phase["cut_back"]:
            cut_back(Path(whole), Path(part), step)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        fork_ranks(phase["processes"], port, phase["jobs"])


def fork_ranks(processes: int, port: int, jobs: list[list[str]]) -> None:
    """Wait until all have done the jobs; where one fails, end the others and this program."""
    sys.stdout.flush()
    children = set()
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            become_rank(rank, processes, port, jobs)
        children.add(child)
    while children:
        child, status = os.wait()
        children.discard(child)
        if status:
            for other in children:
                os.kill(other, signal.SIGKILL)
            sys.exit(1)


def become_rank(rank: int, processes: int, port: int, jobs: list[list[str]]) -> None:
    """Do all jobs as a rank of a new group, and end this process."""
    code = 1
    try:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        run_jobs(jobs)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_jobs(jobs: list[list[str]]) -> None:
    from glm_train import run
    from glm_train.config.compose import compose
    from glm_train.launch import settle
    from glm_train.parallel.rendezvous import Rendezvous, find_seat

    seat = find_seat()
    assert seat is not None
    Rendezvous(seat).form_group("cpu")
    steps = record_steps()
    for job in jobs:
        result = run.fit(settle(compose("chat_smoke", job), seat), "test", SameGroup(seat))  # type: ignore[arg-type]
        name = f"steps-{seat.world_size}-{seat.rank}.json"
        (result.folder.path / name).write_text(json.dumps(steps))
        steps.clear()


def record_steps() -> list[tuple[int, list[int]]]:
    """Each step that this process will do from now on, with the documents of its share."""
    from glm_train.tasks.base import GlmTask

    plain, steps = GlmTask.training_step, []

    def recorded(self: GlmTask, microbatches: Any, index: int) -> None:
        plain(self, microbatches, index)
        steps.append((self.step, [int(d) for batch in microbatches for d in batch.documents]))

    GlmTask.training_step = recorded  # type: ignore[method-assign]
    return steps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
