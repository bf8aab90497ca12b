"""Where a run keeps its files, and whether it may write there."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from glm_train.checkpoint.manifest import MANIFEST_NAME, is_complete
from glm_train.checkpoint.new_folder import sweep
from glm_train.checkpoint.resume import STATE_NAME, newest_valid
from glm_train.errors import CheckpointError, ConfigError

_NEW_LINK = ".latest"  # what the link to the newest run is called until it has its place
_REWRITTEN = ("config.yaml", "metrics.csv", "samples.jsonl")  # through a file of the name with .tmp
_ANEW = "To start from the beginning, leave resume out and choose another output_dir."
_STATES = ("checkpoints", "best")  # the folders of a run that hold states


@dataclass(frozen=True)
class RunFolder:
    """The files of one run: settings, scalars, resume states and the resulting model."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def logs(self) -> Path:
        return self.path / "logs"  # of ranks other than 0

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def begin(self, settings: str, *, latest: bool) -> None:
        """Make the folder and write `settings` as its config.yaml; with `latest`, let that name point to it.

        What an earlier start that was killed left unfinished is removed. Raises `ConfigError` where it cannot be
        written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sweep(self.path, self.model.name)  # beside it may lie what is the user's
            sweep(self.best)  # `checkpoints` is swept where its states are looked up
            for unfinished in (*(self.path / f"{name}.tmp" for name in _REWRITTEN), self.path / _NEW_LINK):
                unfinished.unlink(missing_ok=True)
            partial = self.path / f"{self.config.name}.tmp"
            partial.write_text(settings, encoding="utf-8")
            partial.replace(self.config)
            if latest:
                _mark_latest(self.path)
        except OSError as error:
            raise ConfigError(
                f"output_dir={self.path}: cannot be written ({error.strerror}). Choose another folder"
            ) from None

    def holds_a_run(self) -> bool:
        """True where any run has written here, finished or not."""
        files = (self.config, self.metrics, self.checkpoints, self.model, self.report)
        return any(path.exists() for path in files)


def choose_run_folder(
    recipe: str, output_dir: str | None, resume: str
) -> tuple[RunFolder, Path | None, list[str]]:
    """The folder of the run, the state to go on from (None: from the start), and what to tell the user.

    Nothing is written. `resume` is `never`, `auto` (the newest valid state of `output_dir`) or the path of a run folder
    or of one of its states. Raises `ConfigError` where the folder holds a run that nobody asked to resume.
    """
    try:
        return _choose(recipe, output_dir, resume)
    except (OSError, ValueError) as error:  # a name too long, a NUL, a folder that may not be entered
        raise ConfigError(f"output_dir={output_dir}, resume={resume}: cannot be used: {error}") from None


def _choose(recipe: str, output_dir: str | None, resume: str) -> tuple[RunFolder, Path | None, list[str]]:
    if resume == "never":
        folder = RunFolder(Path(output_dir) if output_dir else _new_folder(recipe))
        _refuse_other_things(folder)
        if folder.holds_a_run():
            raise ConfigError(
                f"output_dir={folder.path}: already holds a run. Add resume=auto to go on with it, or choose another"
                " folder"
            )
        return folder, None, []
    if resume == "auto":
        if output_dir is None:
            raise ConfigError("resume=auto goes on with the run in output_dir: add output_dir=FOLDER")
        folder = RunFolder(Path(output_dir))
        _refuse_other_things(folder)
        state, skipped = newest_valid(folder.checkpoints) if folder.checkpoints.is_dir() else (None, [])
        notes = [f"skipped {reason}" for reason in skipped]
        if state is None:
            if folder.model.exists() or skipped:
                raise CheckpointError(
                    " ".join([f"{folder.path}: no valid state to resume from.", _ANEW, *notes])
                )
            notes.append(f"nothing to resume in {folder.path}: starting from the beginning")
        return folder, state, notes
    return _from_path(Path(resume), output_dir)


def _from_path(path: Path, output_dir: str | None) -> tuple[RunFolder, Path | None, list[str]]:
    if not path.is_dir():
        raise ConfigError(
            f"resume={path}: no such folder. Expected never, auto, a run folder or one of its states"
        )
    state: Path | None = path
    notes: list[str] = []
    if (path / "manifest.json").exists():
        folder = RunFolder(path.absolute().parent.parent)
        newest, _ = newest_valid(folder.checkpoints)
        if newest is not None and newest.name > path.name:
            raise ConfigError(
                f"resume={path}: {newest.name} is newer, and the states of two courses of a run must not mix. "
                "Move the newer ones away, or resume from the newest"
            )
    else:
        folder = RunFolder(path)
        state, skipped = newest_valid(folder.checkpoints) if folder.checkpoints.is_dir() else (None, [])
        notes = [f"skipped {reason}" for reason in skipped]
        if state is None:
            raise CheckpointError(
                " ".join([f"resume={path}: no valid state in {folder.checkpoints}.", _ANEW, *notes])
            )
    if output_dir is not None and Path(output_dir).absolute() != folder.path.absolute():
        raise ConfigError(
            f"resume={path} goes on in {folder.path}, but output_dir is {output_dir}: "
            "remove output_dir, or make it the same"
        )
    return folder, state, notes


def _new_folder(recipe: str) -> Path:
    """`runs/<recipe>/<time>`, with a number behind it where two runs begin in one second."""
    name = Path(recipe).stem if os.sep in recipe or recipe.endswith((".yaml", ".yml")) else recipe
    base = Path("runs") / name / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = base, 1
    while folder.exists():
        number += 1
        folder = base.with_name(f"{base.name}_{number}")
    return folder


def _refuse_other_things(folder: RunFolder) -> None:
    if folder.path.exists() and not folder.path.is_dir():
        raise ConfigError(f"output_dir={folder.path}: is a file, not a folder")
    if _is_model(folder.path):
        raise ConfigError(f"output_dir={folder.path}: is a model folder, not a run's. Choose another folder")


def _mark_latest(path: Path) -> None:
    """Let `latest`, beside a run that was named by its time, point to it."""
    link = path.parent / "latest"
    if link.exists() and not link.is_symlink():
        return
    fresh = path / _NEW_LINK
    fresh.symlink_to(path.name, target_is_directory=True)
    fresh.replace(link)


def find_model(run_or_model: str) -> str | Path:
    """The model folder that a user's word names: a model folder, a run folder, or a folder of runs (its newest run).

    A name that is no local folder is returned as it is: it may be a hub id.
    """
    path = Path(run_or_model)
    if not path.is_dir():
        return run_or_model
    if _is_model(path):
        return path
    if find_state(run_or_model) is not None:
        raise CheckpointError(
            f"{path}: a saved state of a run, not a model. Make one of it: glm-train export {path} FOLDER"
        )
    if (path / "config.yaml").exists():
        if not _is_model(path / "model"):
            raise CheckpointError(_unfinished(path))
        return path / "model"
    finished = [
        p
        for p in path.iterdir()
        if _is_model(p / "model") and (p / "config.yaml").exists() and not p.is_symlink()
    ]
    if not finished:
        raise CheckpointError(
            f"{path}: neither a model folder (no config.json) nor a run folder nor a folder of runs"
        )
    return max(finished, key=lambda p: (p / "config.yaml").stat().st_mtime) / "model"


def find_state(word: str) -> Path | None:
    """The saved state of a run that a user's word names: a state, or the newest of `RUN/checkpoints` or of `RUN/best`.

    None for anything else. Raises `CheckpointError` for such a folder without a whole state.
    """
    path = Path(word)
    if not path.is_dir():
        return None
    if any((path / name).is_file() for name in (MANIFEST_NAME, STATE_NAME)):
        return path
    here = path.absolute()
    if here.name not in _STATES or not (here.parent / "config.yaml").is_file():
        return None
    if (newest := newest_state(path)) is None:
        raise CheckpointError(f"{path}: holds no whole state of the run")
    return newest


def newest_state(directory: Path) -> Path | None:
    """The state of the highest step that was written to its end. What its files hold is not read."""
    found = sorted(directory.glob("step-*"), reverse=True) if directory.is_dir() else []
    return next((state for state in found if is_complete(state)), None)


def _unfinished(run: Path) -> str:
    text = f"{run}: this run has no model yet; it did not finish. Resume it with resume={run}"
    for name in _STATES:
        if (state := newest_state(run / name)) is not None:
            what = "its newest state" if name == "checkpoints" else "its best model so far"
            text += f", or export {what}: glm-train export {state} FOLDER"
    return text


def _is_model(path: Path) -> bool:
    """Whether a folder looks like a model's or an adapter's."""
    return any((path / name).exists() for name in ("config.json", "adapter_config.json"))
