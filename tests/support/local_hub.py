"""A model hub on 127.0.0.1: the four routes that `snapshot_download` asks, over folders of this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def local_hub(models: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serve `models` (hub id to folder) to huggingface_hub, which keeps them in `cache`; gives the requests so far."""
    from huggingface_hub import constants

    handler = type("Handler", (_Hub,), {"models": models, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with monkeypatch.context() as patch:
        point_at(patch, f"http://127.0.0.1:{server.server_port}")
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        try:
            yield handler.requests
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def point_at(patch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What HF_ENDPOINT does, for a library that read it when it was imported."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)


class _Hub(BaseHTTPRequestHandler):
    models: dict[str, Path]
    requests: list[str]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        self.requests.append(self.path)
        path = self.path.split("?")[0].removeprefix("/api/models")
        if "gated" in path:
            return self._send(403, b"{}", with_body, {"X-Error-Code": "GatedRepo"})
        name = next((name for name in self.models if path.startswith(f"/{name}/")), None)
        if name is None:
            return self._send(404, b"{}", with_body, {"X-Error-Code": "RepoNotFound"})
        folder = self.models[name]
        if path.endswith("/revision/main"):
            return self._send(200, json.dumps({"id": name, "sha": SHA}).encode(), with_body, {})
        if "/revision/" in path:
            return self._send(404, b"{}", with_body, {"X-Error-Code": "RevisionNotFound"})
        if f"/tree/{SHA}" in path:
            found = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            tree = [
                {
                    "type": "file",
                    "path": file.relative_to(folder).as_posix(),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in found
            ]
            return self._send(200, json.dumps(tree).encode(), with_body, {})
        body = (folder / path.split(f"/resolve/{SHA}/")[1]).read_bytes()
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
