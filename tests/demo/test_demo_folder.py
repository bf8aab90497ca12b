"""Making the demo folder: the same bytes every time, all or nothing, and never over anything."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glm_train.cli.main import main
from glm_train.demo import folder as demo_folder
from glm_train.demo import sources, tiny_glm
from glm_train.demo.folder import make_demo
from glm_train.errors import ConfigError


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _copy_of(demo: Path, target: Path) -> Path:
    for path in demo.rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(demo)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.hardlink_to(path)
    return target


def test_every_file_is_there(demo: Path) -> None:
    model = ("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors")
    model += ("tokenizer.json", "tokenizer_config.json")
    data = ("chat/{}.jsonl", "topics/{}.csv", "entities/{}.conll")
    expected = {"README.md", "demo.json", *(f"tiny-glm/{name}" for name in model)}
    expected |= {name.format(part) for name in data for part in ("train", "validation")}
    assert set(_hashes(demo)) == expected
    assert [path.name for path in demo.parent.iterdir()] == ["demo"], "no temporary folder stays behind"


@pytest.mark.parametrize(("hash_seed", "threads"), [("1", "1"), ("2", "4")])
def test_another_process_makes_the_same_bytes(
    demo: Path, tmp_path: Path, hash_seed: str, threads: str
) -> None:
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": threads}
    environment |= {"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
    command = [sys.executable, "-c", "from glm_train.cli.main import main; import sys; sys.exit(main())"]
    made = tmp_path / "elsewhere"
    subprocess.run([*command, "demo", str(made)], env=environment, check=True, capture_output=True)
    assert _hashes(made) == _hashes(demo)


def test_a_seed_changes_the_weights_and_no_data(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "other", seed=1)
    here, there = _hashes(demo), _hashes(tmp_path / "other")
    assert {name for name in here if here[name] != there[name]} == {
        "README.md",
        "demo.json",
        "tiny-glm/model.safetensors",
    }


def test_the_manifest_lists_every_other_file(demo: Path) -> None:
    manifest = json.loads((demo / "demo.json").read_text(encoding="utf-8"))
    assert manifest["files"] == {name: value for name, value in _hashes(demo).items() if name != "demo.json"}
    assert set(manifest["sources"]) == {"chatterbot-corpus", "hironsancorpus"}


def test_the_readme_names_sources_licences_and_commands(demo: Path) -> None:
    text = (demo / "README.md").read_text(encoding="utf-8")
    for part in (
        "chatterbot-corpus",
        "BSD",
        "hironsancorpus",
        "MIT",
        "glm-train fit quickstart",
        "What is AI?",
    ):
        assert part in text
    assert "{" not in text


def test_an_empty_folder_is_filled_and_new_parents_are_made(demo: Path, tmp_path: Path) -> None:
    empty = tmp_path / "a" / "empty"
    empty.mkdir(parents=True)
    make_demo(empty)
    make_demo(tmp_path / "b" / "c" / "deep")
    assert _hashes(empty) == _hashes(tmp_path / "b" / "c" / "deep") == _hashes(demo)
    assert empty.stat().st_mode == (tmp_path / "a").stat().st_mode


def test_a_finished_demo_is_left_alone(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in demo.rglob("*")}
    assert main(["demo", str(demo)]) == 0
    output = capsys.readouterr().out
    assert "already there" in output
    assert "Next:  glm-train fit quickstart model.path=" in output
    assert {path: path.stat().st_mtime_ns for path in demo.rglob("*")} == before


def test_the_summary_of_a_new_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "demo"]) == 0
    output = capsys.readouterr().out
    assert "already there" not in output
    assert output.endswith("Next:  glm-train fit quickstart\n")
    for part in ("tiny-glm/", "chat/", "topics/", "entities/", "BSD", "MIT"):
        assert part in output


def _refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("glm-train: error: ")
    return captured.err


def test_other_files_are_never_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert "other files" in _refused([str(tmp_path)], capsys)
    assert _hashes(tmp_path) == {"mine.txt": hashlib.sha256(b"mine").hexdigest()}


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"glm_train": 1}', "null", '"text"'])
def test_a_manifest_that_is_not_ours_counts_as_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: str
) -> None:
    (tmp_path / "demo.json").write_text(manifest)
    assert "other files" in _refused([str(tmp_path)], capsys)


def test_a_changed_demo_is_refused_with_the_names(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = _copy_of(demo, tmp_path / "copy")
    (copy / "chat" / "train.jsonl").unlink()
    (copy / "tiny-glm" / "config.json").unlink()
    (copy / "tiny-glm" / "config.json").write_text("{}")
    before = _hashes(copy)
    assert "chat/train.jsonl, tiny-glm/config.json" in _refused([str(copy)], capsys)
    assert _hashes(copy) == before


def test_a_demo_of_another_seed_or_version_is_refused(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--seed 0, not 5" in _refused([str(demo), "--seed", "5"], capsys)
    monkeypatch.setattr("glm_train.__version__", "99.0")
    assert "99.0" in _refused([str(demo)], capsys)


def test_a_file_in_the_way_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in _refused([str(tmp_path / "file")], capsys)
    assert "cannot be written there" in _refused([str(tmp_path / "file" / "demo")], capsys)
    assert (tmp_path / "file").read_text() == "x"


def test_the_current_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "current folder" in _refused(["."], capsys)


@pytest.mark.parametrize("package", ["chatterbot_corpus", "hironsan", "yaml"])
def test_a_missing_package_is_named_with_the_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    find_spec = sources.find_spec
    monkeypatch.setattr(sources, "find_spec", lambda name: None if name == package else find_spec(name))
    monkeypatch.setitem(sys.modules, package, None)
    message = _refused([str(tmp_path / "demo")], capsys)
    assert 'pip install "glm-train[demo]"' in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_is_a_whole_number(tmp_path: Path, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", str(tmp_path / "demo"), f"--seed={seed}"])
    assert stopped.value.code == 2
    assert "whole number from 0 up" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_demo_cut_short_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(tiny_glm, "write_model", fail)
    with pytest.raises((ConfigError, KeyboardInterrupt)) as raised:
        make_demo(tmp_path / "demo")
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_two_demos_at_once_end_as_one(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two finds the folder finished when it comes to publish."""
    target = tmp_path / "demo"
    write = demo_folder._write

    def slowly(folder: Path, seed: int) -> demo_folder.Contents:
        contents = write(folder, seed)
        _copy_of(demo, target)
        return contents

    monkeypatch.setattr(demo_folder, "_write", slowly)
    contents, made = make_demo(target)
    assert not made
    assert contents.rows["chat/train.jsonl"] > 600
    assert _hashes(target) == _hashes(demo)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_no_demo_needs_torch(tmp_path: Path) -> None:
    """Half a second instead of five: the weights are drawn with numpy."""
    code = (
        "import sys; from glm_train.cli.main import main; assert main(['demo', sys.argv[1]]) == 0; "
        "print([name for name in ('torch', 'lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "demo")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", ["~nouser/x", "a\0b", "loop/x", "a" * 400])
def test_a_path_that_no_folder_can_have(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(ConfigError):
        make_demo(Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
