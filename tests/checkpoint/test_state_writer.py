"""States written in the background: what was given is what is saved, in order, and a failure is not lost."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import pytest
import torch

from glm_train.checkpoint.resume import load_state
from glm_train.checkpoint.writer import StateWriter
from glm_train.errors import CheckpointError

BOTH = pytest.mark.parametrize("background", [False, True])


def nothing() -> None:
    """Nothing is done after a save."""


def save(
    writer: StateWriter, directory: Path, step: int, weight: torch.Tensor, then: object = nothing
) -> None:
    own = {"random": {"cpu": torch.arange(3)}}
    writer.save(
        directory,
        f"step-{step:08d}",
        tensors={"model": {"weight": weight}},
        own=own,
        meta={"step": step},
        then=then,  # type: ignore[arg-type]
    )


@BOTH
def test_a_state_is_as_it_was_when_it_was_given(tmp_path: Path, background: bool) -> None:
    writer, weight = StateWriter(background=background), torch.zeros(1000, 100)
    for step in (1, 2, 3, 4, 5):
        weight.fill_(step)
        save(writer, tmp_path, step, weight)
        weight.fill_(-1)  # training goes on
    writer.wait()
    for step in (1, 2, 3, 4, 5):
        tensors, meta = load_state(tmp_path / f"step-{step:08d}")
        assert meta == {"step": step}
        assert tensors["model"]["weight"].eq(step).all()


def test_it_returns_before_the_state_is_written_and_holds_two_at_most(tmp_path: Path) -> None:
    writer, go, done = StateWriter(background=True), threading.Event(), []
    for step in (1, 2):
        save(writer, tmp_path, step, torch.ones(3), then=lambda step=step: (go.wait(60), done.append(step)))
    assert done == []
    third = threading.Thread(target=save, args=(writer, tmp_path, 3, torch.ones(3)))
    third.start()
    third.join(0.2)
    assert third.is_alive(), "a third waits for room"
    assert not (tmp_path / "step-00000002").exists(), "one after the other"
    go.set()
    third.join(60)
    writer.wait()
    assert done == [1, 2]
    assert (tmp_path / "step-00000003").is_dir()


def test_in_the_foreground_it_returns_with_the_state_on_the_disk(tmp_path: Path) -> None:
    seen: list[bool] = []
    path = tmp_path / "step-00000001"
    save(StateWriter(), tmp_path, 1, torch.ones(3), then=lambda: seen.append(path.is_dir()))
    assert seen == [True]


@pytest.mark.parametrize("next_call", ["save", "wait"])
def test_a_failure_is_raised_by_the_next_call(tmp_path: Path, next_call: str) -> None:
    writer = StateWriter(background=True)
    save(writer, tmp_path, 1, torch.ones(3))
    writer.wait()
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    save(writer, blocked, 2, torch.ones(3))
    writer.finish()  # does not raise
    with pytest.raises(CheckpointError, match="file"):
        writer.wait() if next_call == "wait" else save(writer, tmp_path, 3, torch.ones(3))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000001"]


def test_what_follows_a_save_may_fail_too(tmp_path: Path) -> None:
    def fail() -> None:
        raise CheckpointError("no room to list")

    writer = StateWriter(background=True)
    save(writer, tmp_path, 1, torch.ones(3), then=fail)
    with pytest.raises(CheckpointError, match="no room to list"):
        writer.wait()


def test_a_saved_state_is_let_go(tmp_path: Path) -> None:
    """Its copies would stay in memory until the next one, or the end of the process."""
    held: list[weakref.ref[object]] = []

    class Then:
        """Goes with the state that it follows."""

        def __call__(self) -> None:
            """Nothing is done."""

    then = Then()
    held.append(weakref.ref(then))
    writer = StateWriter(background=True)
    save(writer, tmp_path, 1, torch.ones(3), then=then)
    del then
    writer.wait()
    gc.collect()
    assert held[0]() is None
