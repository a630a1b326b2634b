"""A server in this process, and a client that sends raw requests."""

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
from workflows.search.server.service import SearchService

TIMEOUT_SECONDS = 30.0


@dataclass
class Reply:
    """A response of the server."""

    status: int
    headers: dict[str, str] = field(repr=False)
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; fail if its content type is another."""
        assert self.headers["content-type"] == "application/json; charset=utf-8", self
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error response."""
        body = self.json()
        assert list(body) == ["error"], body
        return str(body["error"])


@dataclass
class Running:
    """A server that runs in this process."""

    port: int
    service: SearchService

    @property
    def url(self) -> str:
        """The URL of the page."""
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Reply:
        """Send one request on a new connection; `_` in the name of a header means `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in named)
            for name, value in named.items():
                connection.putheader(name, value)
            if body is not None and "Content-Length" not in named:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            response_headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, response_headers, response.read())
        finally:
            connection.close()

    def search(self, q: str, *, body: bytes | None = None, **parameters: object) -> Reply:
        """Send a search request, with an image as the body if there is one."""
        method = "GET" if body is None else "POST"
        return self.ask(
            f"/api/search?{urlencode({'q': q, **parameters}, True)}", method=method, body=body
        )

    def raw(self, data: bytes) -> bytes:
        """Send bytes; return everything that is received until the connection is closed."""
        with self.connect() as opened:
            received = b""
            with contextlib.suppress(ConnectionError):
                opened.sendall(data)
                while piece := opened.recv(65536):
                    received += piece
            return received

    def connect(self) -> socket.socket:
        """Open a connection to the server."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS)


@contextmanager
def serving(engine: Engine, *, csls: bool = False, host: str = "127.0.0.1") -> Iterator[Running]:
    """Serve an engine from a thread inside the block."""
    service = SearchService(engine, host, csls=csls)
    sockets = bind(host, 0)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[None] | None] = []

    async def main() -> None:
        tasks.append(asyncio.current_task())
        await serve(service, sockets, started.set)

    def run() -> None:
        # As with asyncio.run(), the tasks of open requests are cancelled at the end.
        with (
            asyncio.Runner(loop_factory=lambda: loop) as runner,
            contextlib.suppress(asyncio.CancelledError),
        ):
            runner.run(main())

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        assert started.wait(TIMEOUT_SECONDS)
        yield Running(sockets[0].getsockname()[1], service)
    finally:
        for task in filter(None, tasks):
            loop.call_soon_threadsafe(task.cancel)
        thread.join(TIMEOUT_SECONDS)
        service.close()
        assert not thread.is_alive()
