"""A server that speaks as much of the hub's protocol as a push and a pull need.

It stands in for the hub of Hugging Face, on the loopback address, and keeps files in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Hub:
    """The repositories of a hub, and what was asked of it."""

    def __init__(self) -> None:
        """Create a hub without repositories."""
        self.files: dict[str, dict[str, bytes]] = {}
        """The contents of files by repository, such as `datasets/me/set`, and by name."""
        self.private: dict[str, bool] = {}
        self.commits: list[list[str]] = []
        """The names of the files of each commit."""
        self.fail_after: int | None = None
        """The number of commits after which all others fail; None for no failures."""
        self.url = ""


def _facts(name: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": oid}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def _answer(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _repository(self, parts: list[str]) -> str:
        return "/".join(parts[:3])

    def do_POST(self) -> None:
        """Create a repository, or commit files."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")[1:]
        if parts == ["repos", "create"]:
            asked = json.loads(data)
            owner = asked.get("organization") or "me"
            name = f"{asked.get('type', 'model')}s/{owner}/{asked['name']}"
            exists = name in self.hub.files
            self.hub.files.setdefault(name, {})
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.private.setdefault(name, bool(private))
            answer = {"url": f"{self.hub.url}/{name}", "name": name}
            self._answer(409 if exists else 200, answer)
            return
        if parts == ["validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
            return
        files = self.hub.files.get(self._repository(parts))
        if files is None:
            self._answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif parts[3] == "preupload":
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = [
                {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
            ]
            self._answer(200, {"files": modes})
        elif parts[3] == "paths-info":
            asked = json.loads(data)["paths"]
            self._answer(200, [_facts(name, files[name]) for name in asked if name in files])
        elif self.hub.fail_after is not None and len(self.hub.commits) >= self.hub.fail_after:
            self._answer(403, {"error": "the quota is exhausted"})
        else:
            self._commit(files, [json.loads(line) for line in data.splitlines()])
            url = f"{self.hub.url}/{self._repository(parts)}/commit/{'0' * 40}"
            self._answer(200, {"commitUrl": url, "commitOid": "0" * 40})

    def _commit(self, files: dict[str, bytes], entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"])
        added = [entry["value"] for entry in entries if entry["key"] == "file"]
        files |= {file["path"]: base64.b64decode(file["content"]) for file in added}
        self.hub.commits.append([file["path"] for file in added])

    def do_HEAD(self) -> None:
        """Answer as to GET, without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """Describe a repository, list its files, or return one."""
        parts = unquote(self.path.split("?")[0]).strip("/").split("/")
        is_api = parts[0] == "api"
        parts = parts[1:] if is_api else parts
        if parts[0] not in ("datasets", "models", "spaces"):
            parts = ["models", *parts]
        files = self.hub.files.get(self._repository(parts))
        if files is None:
            self._answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
        elif not is_api:
            name = "/".join(parts[5:])
            if name not in files:
                self._answer(404, {"error": "not found"}, X_Error_Code="EntryNotFound")
                return
            oid = _facts(name, files[name])["oid"]
            self._answer(200, files[name], ETag=f'"{oid}"', X_Repo_Commit="0" * 40)
        elif parts[3:4] == ["tree"]:
            self._answer(200, [_facts(name, data) for name, data in files.items()])
        else:
            repository = "/".join(parts[1:3])
            self._answer(200, {"id": repository, "sha": "0" * 40, "siblings": [], "tags": []})


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub on the loopback address inside the block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
