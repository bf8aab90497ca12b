"""Finding a model's folder: local paths, and the real download code against a small hub on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from glm_train.errors import CheckpointError
from glm_train.hub import resolve_folder
from support.local_hub import local_hub, point_at

FILES = {
    "config.json": b'{"model_type": "glm"}',
    "model.safetensors": b"weights",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "README.md": b"# read me",
    "pytorch_model.bin": b"a pickle",
    "consolidated.pt": b"a pickle",
    "onnx/config.json": b"{}",
    "o/config.json": b"{}",
    "add/config.json": b"{}",
    "additional_chat_templates_old/x.jinja": b"",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "additional_chat_templates/deeper/x.jinja": b"",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A hub on 127.0.0.1 with one model, `zai-org/tiny`, and an empty cache; yields the requests it got."""
    for name, content in FILES.items():
        (tmp_path / "served" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "served" / name).write_bytes(content)
    with local_hub({"zai-org/tiny": tmp_path / "served"}, tmp_path / "cache", monkeypatch) as requests:
        yield requests


def test_local_folder_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_folder(tmp_path) == tmp_path
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("org/name") == Path("org/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_folder("~/org") == tmp_path / "org"


@pytest.mark.parametrize(
    "name", ["./missing", "../missing", "~/missing", "~nobody-here/x", "/missing", "missing/", "a/b/c"]
)
def test_missing_path_is_named_and_never_asked_of_the_hub(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_folder(name)


def test_path_object_is_never_a_hub_id() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_folder(Path("org/name"))


def test_file_instead_of_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        resolve_folder(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    "name", ["", "has space", "org/na me", "org/name.git", "a--b", "a..b", "-x/y", "org/é", "a\\b"]
)
def test_neither_folder_nor_hub_id(name: str) -> None:
    with pytest.raises(CheckpointError, match="neither an existing folder nor a hub id"):
        resolve_folder(name)


def test_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no revision 'v1'"):
        resolve_folder(tmp_path, revision="v1")


def test_download_takes_model_files_only(hub: list[str]) -> None:
    folder = resolve_folder("zai-org/tiny")
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    templates = {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"}
    assert names == {"config.json", "model.safetensors", "merges.txt", *templates}
    assert all((folder / name).read_bytes() == FILES[name] for name in names)
    assert not [r for r in hub if r.endswith((".bin", ".pt", ".md"))]


def test_a_pickle_is_not_fetched_even_when_asked_for(hub: list[str]) -> None:
    folder = resolve_folder("zai-org/tiny", allow_patterns=["*"])
    assert not [p for p in folder.rglob("*") if p.suffix in (".bin", ".pt")]
    assert not [r for r in hub if r.endswith((".bin", ".pt"))]


def test_second_call_downloads_only_what_is_new(hub: list[str]) -> None:
    first = resolve_folder("zai-org/tiny", allow_patterns=["config.json"])
    hub.clear()
    assert resolve_folder("zai-org/tiny", allow_patterns=["config.json", "*.txt"]) == first
    assert {r.rsplit("/", 1)[1] for r in hub if "/resolve/" in r} == {"merges.txt"}


@pytest.mark.parametrize(
    ("name", "revision", "cure"),
    [
        ("zai-org/unknown", None, "no such model on the hub"),
        ("zai-org/gated", None, "HF_TOKEN"),
        ("zai-org/tiny", "v9", "no revision 'v9'"),
    ],
)
def test_refusals_of_the_hub(hub: list[str], name: str, revision: str | None, cure: str) -> None:
    with pytest.raises(CheckpointError, match=cure):
        resolve_folder(name, revision=revision)
    assert hub, "the hub was asked"


def test_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    point_at(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"hub cannot be reached .*the path of its folder"):
        resolve_folder("zai-org/tiny")


def test_offline_uses_the_cache_and_else_names_the_switch(
    hub: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cached = resolve_folder("zai-org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.clear()
    assert resolve_folder("zai-org/tiny") == cached
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE forbids"):
        resolve_folder("zai-org/other")
    assert hub == []


def test_importing_hub_imports_nothing_heavy() -> None:
    code = "import sys, glm_train.hub; print([m for m in ('torch', 'huggingface_hub') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
