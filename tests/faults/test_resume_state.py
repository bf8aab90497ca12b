"""Altered run states are refused by name, and the one before is taken; a full or failing disk costs nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_states import assert_is_step, save

from glm_train.checkpoint import resume
from glm_train.checkpoint.resume import load_state, newest_valid
from glm_train.errors import CheckpointError

WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


def cut(name: str, share: float) -> Callable[[Path], None]:
    def mutate(path: Path) -> None:
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: int(len(data) * share)])

    return mutate


def flip(name: str, at: float) -> Callable[[Path], None]:
    """Turn one bit over, at this share of the file."""

    def mutate(path: Path) -> None:
        data = bytearray((path / name).read_bytes())
        data[int((len(data) - 1) * at)] ^= 1
        (path / name).write_bytes(data)

    return mutate


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def mutate(path: Path) -> None:
        values = json.loads((path / name).read_text())
        change(values)
        (path / name).write_text(json.dumps(values, indent=2) + "\n")

    return mutate


def swap(path: Path) -> None:
    (path / WEIGHTS).rename(path / "x")
    (path / OPTIMIZER).rename(path / WEIGHTS)
    (path / "x").rename(path / OPTIMIZER)


def link(path: Path) -> None:
    (path / WEIGHTS).rename(path.parent / "elsewhere")
    (path / WEIGHTS).symlink_to(path.parent / "elsewhere")


def dangle(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to("gone")


def from_another_state(path: Path) -> None:
    other = save(path.parent / "other", 7)
    shutil.copy(other / WEIGHTS, path / WEIGHTS)


def emptied(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"{name} cut to {share}": (cut(name, share), "")
        for name in (WEIGHTS, STATE)
        for share in (0, 0.01, 0.5, 0.99)
    },
    **{f"{MANIFEST} cut to {share}": (cut(MANIFEST, share), MANIFEST) for share in (0, 0.5, 0.99)},
    **{
        f"{name} bit at {at}": (flip(name, at), "")
        for name in (WEIGHTS, OPTIMIZER, STATE)
        for at in (0, 0.6, 1)
    },
    "weights missing": (lambda p: (p / WEIGHTS).unlink(), "the file is missing"),
    "state missing": (lambda p: (p / STATE).unlink(), "the file is missing"),
    "manifest missing": (lambda p: (p / MANIFEST).unlink(), "not finished"),
    "manifest is a folder": (lambda p: ((p / MANIFEST).unlink(), (p / MANIFEST).mkdir()), "no manifest"),
    "extra file": (lambda p: (p / "extra.safetensors").write_bytes(b""), "not in the manifest"),
    "weights renamed": (lambda p: (p / WEIGHTS).rename(p / "m.safetensors"), "the file is missing"),
    "files swapped": (swap, "were written"),
    "weights of another step": (from_another_state, "content is not what was written"),
    "weights are a link": (link, "not a regular file"),
    "weights are a dangling link": (dangle, "not a regular file"),
    "weights are a folder": (lambda p: ((p / WEIGHTS).unlink(), (p / WEIGHTS).mkdir()), "not a regular file"),
    "empty folder": (emptied, "no manifest"),
    "future version": (edit(MANIFEST, lambda m: m.update(version=2)), r"version 2; .*Resume with"),
    "other format": (edit(MANIFEST, lambda m: m.update(format="other")), "not the manifest"),
    "manifest with another hash": (
        edit(MANIFEST, lambda m: m["files"][WEIGHTS].update(sha256="0" * 64)),
        "differs",
    ),
    "manifest with another size": (
        edit(MANIFEST, lambda m: m["files"][WEIGHTS].update(bytes=1)),
        "were written",
    ),
    "manifest without a size": (edit(MANIFEST, lambda m: m["files"][WEIGHTS].pop("bytes")), "damaged"),
    "manifest of lists": (edit(MANIFEST, lambda m: m.update(files=[])), "damaged"),
    "manifest names a way out": (edit(MANIFEST, lambda m: m["files"].update({"../x": {}})), "damaged"),
    "manifest is a list": (lambda p: (p / MANIFEST).write_text("[]"), "not the manifest"),
    "manifest is no json": (lambda p: (p / MANIFEST).write_text("{"), "damaged"),
    "manifest nests deeply": (lambda p: (p / MANIFEST).write_text("[" * 10**5), "damaged"),
    "manifest is binary": (lambda p: (p / MANIFEST).write_bytes(b"\xff\xfe"), "damaged"),
}


@pytest.mark.parametrize("case", MUTATIONS)
def test_altered_state_is_refused_and_the_previous_one_taken(tmp_path: Path, case: str) -> None:
    mutate, reason = MUTATIONS[case]
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    mutate(path)
    with pytest.raises(CheckpointError) as caught:
        load_state(path)
    assert re.search(reason, str(caught.value))
    assert str(path) in str(caught.value)
    found, reasons = newest_valid(tmp_path)
    assert found == tmp_path / "step-00000001"
    assert reasons == [str(caught.value)]


def test_every_byte_of_the_manifest_counts(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    data = (path / MANIFEST).read_bytes()
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 1 << at % 8
        (path / MANIFEST).write_bytes(altered)
        with pytest.raises(CheckpointError):
            load_state(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may read everything")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / WEIGHTS).chmod(0)
    with pytest.raises(CheckpointError, match="Permission denied"):
        load_state(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("at", range(1, 13))
def test_failing_disk_at_any_call_leaves_the_previous_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, at: int
) -> None:
    """The n-th flush or rename of a save fails; saving the same step again, then a new one."""
    save(tmp_path, 1)
    calls = 0

    def failing(real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(number, os.strerror(number), str(tmp_path))
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "rename"):
            patch.setattr(os, name, failing(getattr(os, name)))
        try:
            save(tmp_path, 2)
            said = None
        except CheckpointError as error:
            said = str(error)
    if said is None:
        assert calls < at
        assert_is_step(tmp_path / "step-00000002", 2)
    else:
        assert calls >= at
        assert os.strerror(number) in said
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        assert ("bytes" in said and "free" in said) == full
    assert_is_step(tmp_path / "step-00000001", 1)
    assert not list(tmp_path.glob(".tmp-*"))
    save(tmp_path, 3)
    assert newest_valid(tmp_path)[0] == tmp_path / "step-00000003"


def test_too_little_room_is_seen_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5000))
    monkeypatch.setattr(resume, "write_tensors", lambda *a: pytest.fail("wrote on a full disk"))
    with pytest.raises(CheckpointError, match=r"step-00000001 needs 8\d\d\d bytes .* where 5000 bytes"):
        save(tmp_path, 1, size=1000)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "file" / "checkpoints", 1)


def test_two_savers_in_one_folder(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / ".tmp-step-00000002-1").mkdir()
    handle = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process is saving here"):
            save(tmp_path, 2)
        assert newest_valid(tmp_path) == (path, []), "reading is free"
        assert (tmp_path / ".tmp-step-00000002-1").exists(), "the other one's draft is left alone"
    finally:
        os.close(handle)
    save(tmp_path, 2)
    assert not list(tmp_path.glob(".tmp-*"))


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(handle: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    save(tmp_path, 1)
    assert newest_valid(tmp_path) == (tmp_path / "step-00000001", [])
