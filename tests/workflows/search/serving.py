"""A server in this process, and requests to it that no library makes polite."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from workflows.search.engine import Engine
from workflows.search.server.app import bind, serve
from workflows.search.server.base_handler import SearchService

PATIENCE = 30.0


@dataclass
class Reply:
    """What was answered."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    def json(self) -> Any:
        """The body, which must be JSON and say so."""
        assert self.headers["content-type"] == "application/json; charset=utf-8", self
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence."""
        said = self.json()
        assert list(said) == ["error"], said
        return str(said["error"])


@dataclass
class Running:
    """A server that runs."""

    port: int
    service: SearchService

    @property
    def url(self) -> str:
        """For a browser."""
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Reply:
        """One request on a connection of its own; `_` in the name of a header is `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in named)
            for name, value in named.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in named:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            found = connection.getresponse()
            told = {name.lower(): value for name, value in found.getheaders()}
            return Reply(found.status, told, found.read())
        finally:
            connection.close()

    def search(self, q: str, *, body: bytes | None = None, **asked: object) -> Reply:
        """Ask for answers."""
        method = "GET" if body is None else "POST"
        return self.ask(
            f"/api/search?{urlencode({'q': q, **asked}, True)}", method=method, body=body
        )

    def raw(self, data: bytes) -> bytes:
        """Whatever comes back until the connection is closed, or nothing comes any more."""
        with self.connect() as opened:
            found = b""
            with contextlib.suppress(ConnectionError):
                opened.sendall(data)
                while piece := opened.recv(65536):
                    found += piece
            return found

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@contextmanager
def serving(engine: Engine, *, csls: bool = False, host: str = "127.0.0.1") -> Iterator[Running]:
    """Serve an engine from a thread, for as long as the block lasts."""
    service = SearchService(engine, host, csls=csls)
    sockets = bind(host, 0)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(service, sockets, started.set))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert started.wait(PATIENCE)
        yield Running(sockets[0].getsockname()[1], service)
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
        service.close()
        assert not thread.is_alive()
