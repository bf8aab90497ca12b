"""The output file: where it may be written, and that it is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from glm_train.errors import ConfigError, DataError
from glm_train.predict.output import Summary, check_places, output_file, report


def test_a_complete_file_gets_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with output_file(out, tmp_path / "in") as file:
        file.write(1, {"label": "好"})
        file.fault(2, "bad")
        file.write(3, {"text": "\ud83d half"})
        assert not out.exists()
    assert out.read_text(encoding="utf-8").splitlines() == [
        '{"line": 1, "label": "好"}',
        '{"line": 2, "error": "bad"}',
        '{"line": 3, "text": "\\ud83d half"}',
    ]
    assert file.summary == Summary(2, 1, [f"{tmp_path / 'in'}:2: bad"])
    assert list(tmp_path.iterdir()) == [out]


def faults(folder: Path, count: int) -> None:
    with output_file(folder / "out", folder / "in") as file:
        for line in range(1, count + 1):
            file.fault(line, "bad")


def interrupted(out: Path, error: BaseException) -> None:
    with output_file(out, out) as file:
        file.write(1, {})
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("stop"), OSError("disk")])
def test_an_interrupted_file_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    with pytest.raises(type(error)):
        interrupted(out, error)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_of_faults_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        faults(tmp_path, 8)
    text = str(refused.value)
    assert "all of its 8 records cannot be read" in text
    assert text.count(": bad") == 5
    assert text.endswith("and 3 more")
    with pytest.raises(DataError, match="holds no record"):
        faults(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_places(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_text("x")
    check_places(source, out, overwrite=False)
    out.write_text("old")
    check_places(source, out, overwrite=True)
    (tmp_path / "link").symlink_to(source)
    for place, message in (
        (out, "add --overwrite"),
        (source, "the same file"),
        (tmp_path / "link", "the same file"),
        (tmp_path, "this is a folder"),
        (tmp_path / "no" / "out", "there is no folder"),
        (source / "out", "there is no folder"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (tmp_path / "nul\0", "cannot be written"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_places(source, place, overwrite=False)
    with pytest.raises(ConfigError, match="the same file"):
        check_places(source, source, overwrite=True)


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with (
        pytest.raises(ConfigError, match="No space left on device"),
        output_file(tmp_path / "out", tmp_path / "in") as file,
    ):
        file.write(1, {})
    assert not list(tmp_path.iterdir())


def test_what_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(Summary(1000, 234, ["in:3: bad"], notes=["a note"]), Path("out"))
    assert capsys.readouterr().err.splitlines() == [
        "glm-train: a note",
        "glm-train: 234 of 1,234 records could not be read; each has a line with `error` in out. The first:",
        "  in:3: bad",
    ]
    report(Summary(3), Path("out"))
    assert capsys.readouterr().err == ""
