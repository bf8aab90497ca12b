"""`glm-train` in children of a server that has imported everything, with faults put into them.

A child runs the command's own `main`, with the command's output in a file and in a session of its own. Where it starts
several processes it forks them, instead of starting Python anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glm_train.checkpoint.resume import load_state, newest_valid
from support.runs import rows, weights

LIMIT = 60.0  # seconds, for anything that is waited for: these runs take about one
_MODULES = [
    "pytest",
    "fault_runs",
    "faults_in_runs",
    "glm_train.run",
    "glm_train.launch",
    "glm_train.cli.fit",
]
_MODULES += ["glm_train.config.compose", "glm_train.checkpoint.resume", "pandas", "pyarrow.compute"]
_MODULES += ["hydra", "hydra.utils", "hydra.core.override_parser.overrides_parser", "torch.profiler"]
_MODULES += ["hydra._internal.config_loader_impl", "omegaconf.grammar_parser"]


def server() -> multiprocessing.context.ForkServerContext:
    """Where children come from: each starts in milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    return context


def settings(model: Path, chats: Path, output: Path, **more: Any) -> list[str]:
    """A tiny run that validates, answers samples and keeps its best model."""
    values = {
        "model.path": model,
        "data.train": chats,
        "data.validation": chats,
        "data.max_length": 96,
        "batch.documents": 1,
        "optim.lr": 0.01,
        "trainer.max_steps": 12,
        "trainer.save_every": 4,
        "trainer.validate_every": 6,
        "trainer.keep": 2,
        "trainer.result": "best",
        "samples.every": 5,
        "samples.count": 1,
        "samples.max_new_tokens": 4,
        "output_dir": output,
        "resume": "auto",
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return ["fit", "chat_smoke", *(f"{name}={value}" for name, value in values.items())]


class Command:
    """`glm-train ARGUMENTS` in a child; `fault(*details)` of faults_in_runs.py is called in it first."""

    def __init__(self, arguments: list[str], log: Path, fault: str = "", *details: Any) -> None:
        self.log = log
        self.process = server().Process(
            target=_run, args=(arguments, str(log), dict(os.environ), fault, details)
        )
        self.process.start()
        assert self.process.pid is not None
        self.pid: int = self.process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, text: str) -> bool:
        return text in self.said

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    def until(self, reached: Callable[[], Any]) -> bool:
        """Wait for it; False where the child has ended before."""
        until = time.monotonic() + LIMIT
        while not reached():
            if self.ended:
                return bool(reached())
            assert time.monotonic() < until, self.said
            time.sleep(0.002)
        return True

    def send(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def wait(self) -> int:
        """Its exit code (below 0: the signal that killed it)."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.kill_all()
            raise AssertionError(f"still running after {LIMIT} seconds:\n{self.said}")
        return self.process.exitcode

    def ranks(self) -> dict[int, int]:
        """The processes it has started for its ranks."""
        return children(self.pid)

    def kill_all(self) -> None:
        pids = [*self.ranks().values(), self.pid]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.join()


def children(parent: int) -> dict[int, int]:
    """Process ids by rank."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return dict(enumerate(map(int, found)))
    return {}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def assert_same(run: Path, whole: Path) -> None:
    """A finished run is, bit for bit, the one that nobody disturbed."""
    expected, found = weights(whole), weights(run)
    assert expected.keys() == found.keys()
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)
    assert rows(run / "metrics.csv") == rows(whole / "metrics.csv")
    assert (run / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert _names(run / "model") == _names(whole / "model")
    assert leftovers(run) == set()


def assert_whole_or_absent(run: Path) -> None:
    """States, and the model."""
    for folder in (run / "checkpoints", run / "best"):
        for state in folder.glob("step-*"):
            load_state(state)
    if (run / "model").exists():
        assert _names(run / "model") >= {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "generation_config.json",
        }


def newest_step(run: Path) -> int:
    state, skipped = newest_valid(run / "checkpoints")
    assert not skipped
    return int(state.name.removeprefix("step-")) if state else 0


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def leftovers(run: Path) -> set[Path]:
    """All that is not meant to stay, wherever it lies in a run's folder."""
    return {path for path in run.rglob("*") if _temporary(path.name)}


def _temporary(name: str) -> bool:
    return name.startswith((".tmp", ".old")) or name.endswith((".tmp", ".part"))


def done(command: Command) -> tuple[int, int]:
    """The step that a run went on after (0 from the start), and the last one it has shown."""
    began, last = 0, 0
    for line in command.said.splitlines():
        words = line.split()
        if "going on after step" in line:
            began = int(line.split("going on after step")[1].split()[0].strip(".,:;").replace(",", ""))
        elif words[:1] == ["step"] and "/" in words[1]:
            last = int(words[1].split("/")[0].replace(",", ""))
    return began, max(began, last)


def on_a_small_disk(disk: str, size: int, starts: list[tuple[list[str], str, tuple]], kept: str) -> None:
    """In a child: mount a disk of `size` bytes that nobody else sees, make the starts of a run on it, and keep the run.

    A start is its arguments, its log and an event. What each leaves is copied to `kept`-0 and so on. Ends with 77 where
    no disk may be mounted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    new_mounts, private = 0x00020000, 0x4000 | 1 << 18  # CLONE_NEWNS; MS_REC | MS_PRIVATE
    if libc.unshare(new_mounts) or libc.mount(b"none", b"/", None, private, None):
        os._exit(77)
    if libc.mount(b"none", disk.encode(), b"tmpfs", 0, f"size={size}".encode()):
        os._exit(77)
    filler = Path(disk, "filler")
    os.environ["FULL_DISK"] = str(filler)
    for number, (arguments, log, event) in enumerate(starts):
        pid = os.fork()
        if pid == 0:
            with _end():
                _run(arguments, log, dict(os.environ), "at" if event else "", (event,) if event else ())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with Path(log).open("a") as file:
            file.write(f"exit code {code}\n")
        filler.unlink(missing_ok=True)
        shutil.copytree(f"{disk}/run", f"{kept}-{number}")
    os._exit(0)


def _run(arguments: list[str], log: str, environ: dict[str, str], fault: str, details: tuple) -> None:
    import faults_in_runs

    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(handle, standard)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    from glm_train import launch

    launch.start_processes = _forked  # type: ignore[assignment]
    if fault:
        getattr(faults_in_runs, fault)(*details)
    _call(arguments)


def _call(arguments: list[str]) -> None:
    from glm_train.cli.main import main

    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Forked:
    """What torch's launcher gives, as far as it is used."""

    def __init__(self, pids: dict[int, int]) -> None:
        self._pids = pids

    def pids(self) -> dict[int, int]:
        return self._pids

    def close(self, signum: int, timeout: float) -> None:
        for pid in self._pids.values():
            with contextlib.suppress(OSError):
                os.kill(pid, signum)
                os.waitpid(pid, 0)


def _forked(name: str, program: str, args: dict[int, Any], envs: dict[int, Any], logs_specs: Any) -> _Forked:
    pids = {}
    signals = (signal.SIGTERM, signal.SIGINT)
    for rank, words in args.items():
        signal.pthread_sigmask(
            signal.SIG_BLOCK, signals
        )  # none may come before the child has its own handlers
        pid = os.fork()
        if pid == 0:
            with _end():
                os.closerange(3, 256)  # the parent's store among them: it must end with the parent
                os.setsid()
                for signum in signals:
                    signal.signal(signum, signal.SIG_DFL)
                os.environ.update(envs[rank])
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                _call(list(words)[2:])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        pids[rank] = pid
    return _Forked(pids)


@contextlib.contextmanager
def _end() -> Iterator[None]:
    """Nothing of the parent's code runs on in a child."""
    import traceback

    try:
        yield
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)
