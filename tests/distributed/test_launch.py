"""`glm-train fit` with two processes: what it leaves, how it ends when a process is stopped, killed, or fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from glm_train.cli.main import main
from glm_train.errors import ConfigError
from glm_train.parallel.rendezvous import find_seat, first_host

STEPS, LIMIT = 200, 240


def command(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    settings = {
        "model.path": model,
        "data.train": data,
        "data.max_length": 96,
        "batch.documents": 1,
        "trainer.accelerator": "cpu",
        "trainer.devices": 2,
        "trainer.max_steps": STEPS,
        "trainer.save_every": 5,
        "trainer.log_every": 1,
        "output_dir": output,
    }
    given = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "glm_train", "fit", "chat_smoke", *given, "parallel=ddp", *more]


def run_until(arguments: list[str], step: int, signum: int, rank: int | None) -> tuple[int, str]:
    """The exit code and everything said, where a signal comes when `step` is shown: to a rank, or to the parent."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    said = []
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if re.match(rf"step +{step}/", line):
                os.kill(process.pid if rank is None else child(process.pid, rank), signum)
        return process.wait(timeout=LIMIT), "".join(said)


def child(parent: int, rank: int) -> int:
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"\0RANK={rank}\0" in "\0" + Path(f"/proc/{pid}/environ").read_text():
            return int(pid)
    raise AssertionError(f"no process has rank {rank}")


@pytest.mark.slow
def test_a_rank_that_is_stopped_stops_all_with_the_state_saved(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    arguments = command(model_folder, chat_file, tmp_path / "run", "trainer.save_every=1000")
    code, said = run_until(arguments, 3, signal.SIGTERM, rank=1)
    assert code == 143, said
    assert said.count("stopped by SIGTERM after step") == 1
    assert "Traceback" not in said
    assert (tmp_path / "run" / "logs" / "rank-1.log").exists()
    (state,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert 3 <= int(state.name.removeprefix("step-")) < STEPS
    done = subprocess.run(
        [*arguments, f"trainer.max_steps={int(state.name.removeprefix('step-')) + 2}", "resume=auto"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_rank_that_is_killed_takes_the_others_down(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    arguments = command(model_folder, chat_file, tmp_path / "run")
    code, said = run_until(arguments, 7, signal.SIGKILL, rank=1)
    assert code == 1, said
    assert said.count("rank 1 was killed by SIGKILL") == 1
    assert "Traceback" not in said
    states = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert states[-1] >= "step-00000005"


@pytest.mark.slow
def test_what_one_rank_finds_is_said_once_with_its_exit_code(
    tmp_path: Path, model_folder: Path, chat_file: Path
) -> None:
    bad = command(model_folder, chat_file, tmp_path / "run", "optim.lr=1e30", "optim.clip_norm=null")
    done = subprocess.run(bad, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("The weights were not updated") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["trainer.num_nodes=2"], ["trainer.num_nodes=2", "torchrun"]),
        (["parallel=hsdp"], ["parallel=hsdp", "parallel.shard_size"]),
        (["parallel=fsdp", "parallel.offload=true"], ["parallel.offload"]),
        (["parallel=single"], ["trainer.devices", "add parallel=fsdp"]),
        (["parallel=fsdp", "adapter=qlora"], ["4 bits", "parallel=ddp"]),
        (["data.train=nothing.jsonl"], ["nothing.jsonl"]),
        (["resume=auto"], []),
    ],
)
def test_what_can_be_refused_is_refused_before_any_process(
    tmp_path: Path,
    model_folder: Path,
    chat_file: Path,
    more: list[str],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def started(*args: object, **kwargs: object) -> None:
        raise ConfigError("processes were started")

    monkeypatch.setattr("glm_train.launch.start_processes", started)
    assert main(command(model_folder, chat_file, tmp_path / "run", *more)[3:]) == 2
    error = capsys.readouterr().err
    for part in expected or ["processes were started"]:
        assert part in error
    assert not (tmp_path / "run").exists()


def test_seats() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    torchrun |= {"MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"}
    seat = find_seat(torchrun)
    assert seat is not None
    assert (seat.rank, seat.world_size, seat.local_rank, seat.local_world_size) == (3, 4, 1, 2)
    assert (seat.address, seat.port, seat.hosted) == ("gpu1", 29500, False)
    slurm = {"SLURM_STEP_NUM_TASKS": "16", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "9"}
    slurm |= {"SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "123456"}
    seat = find_seat(slurm)
    assert seat is not None
    assert (seat.rank, seat.local_world_size, seat.address, seat.port) == (9, 8, "gpu07", 23456)
    assert find_seat({}) is None
    assert find_seat({"SLURM_STEP_NUM_TASKS": "1"}) is None
    for half in ({"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "RANK": "0"}):
        with pytest.raises(ConfigError, match="unset WORLD_SIZE"):
            find_seat(half)
    with pytest.raises(ConfigError, match="RANK=x: not a number"):
        find_seat({**torchrun, "RANK": "x"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu1", "gpu1"), ("gpu[03-05,07],cpu1", "gpu03"), ("a1,b2", "a1"), ("n[1,3]-ib", "n1-ib")],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
