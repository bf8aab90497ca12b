"""Finding a model's folder: local paths, and the real download code against a small hub on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from glm_train.errors import CheckpointError
from glm_train.hub import resolve_folder

SHA = "0123456789abcdef0123456789abcdef01234567"
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


class Hub(BaseHTTPRequestHandler):
    """The four routes that `snapshot_download` asks: revision, tree, and HEAD/GET of a file."""

    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.requests.append(self.path)
        path = self.path.split("?")[0]
        if "gated" in path:
            return self._send(403, b'{"error": "gated"}', with_body, {"X-Error-Code": "GatedRepo"})
        if not (path.startswith("/zai-org/tiny/") or path.startswith("/api/models/zai-org/tiny/")):
            return self._send(404, b'{"error": "none"}', with_body, {"X-Error-Code": "RepoNotFound"})
        if path.endswith("/revision/main"):
            return self._send(200, json.dumps({"id": "zai-org/tiny", "sha": SHA}).encode(), with_body, {})
        if "/revision/" in path:
            return self._send(404, b"{}", with_body, {"X-Error-Code": "RevisionNotFound"})
        if f"/tree/{SHA}" in path:
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for name, body in FILES.items()
            ]
            return self._send(200, json.dumps(tree).encode(), with_body, {})
        body = FILES[path.split(f"/resolve/{SHA}/")[1]]
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": SHA}
        return self._send(200, body, with_body, headers)

    def _send(self, status: int, body: bytes, with_body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep the test output quiet."""


def _point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does, for a library that read it when it was imported."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A hub on 127.0.0.1 with one model, `zai-org/tiny`, and an empty cache; yields the requests it got."""
    from huggingface_hub import constants

    handler = type("Handler", (Hub,), {"requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    _point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield handler.requests
    server.shutdown()
    thread.join()
    server.server_close()


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

    _point_at(monkeypatch, "http://127.0.0.1:1")
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
