"""What answers stand on: what is searched, in which threads; who may ask; how errors are told."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tornado import web

from cluster.cores import cores
from pipeline.errors import TesseraeError
from workflows.search.connections import Connections
from workflows.search.engine import Engine
from workflows.search.query import QueryError
from workflows.search.server.security import HEADERS, Guard
from workflows.search.server.thread_pool import BusyError, Pool
from workflows.search.server.uploads import HandedIn
from workflows.terminal.formatting import printable

PAGE = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
    "/search.css": ("search.css", "text/css; charset=utf-8"),
}
UPLOADS = 4
"""Pictures that are handed in at once."""
MAX_CONNECTIONS = 256
"""How many may be open at once; beyond them the one that is idle for the longest is closed."""


class Service:
    """What the handlers stand on."""

    def __init__(
        self, engine: Engine, host: str, *, csls: bool, allowed_hosts: Sequence[str] = ()
    ) -> None:
        """Start nothing yet.

        Args:
            engine: What is searched.
            host: The name or address that is listened on.
            csls: Whether answers can make up for hubs.
            allowed_hosts: Further names that the server is called by, as a reverse proxy has them.

        Raises:
            ValueError: One of *allowed_hosts* is no name.
        """
        self.engine = engine
        self.csls = csls
        self.guard = Guard(host, allowed_hosts)
        self.connections = Connections(lambda: MAX_CONNECTIONS)
        self.handed = HandedIn(engine)
        self.uploading = 0
        self.searches = Pool("search", threads=max(2, cores()), line=64, seconds=10)
        self.thumbs = Pool("thumb", threads=2, line=512, seconds=10)
        self.uploads = Pool("upload", threads=2, line=UPLOADS, seconds=30)
        self.files = {
            url: ((PAGE / name).read_bytes(), kind) for url, (name, kind) in FILES.items()
        }

    def close(self) -> None:
        """Finish what was begun."""
        for pool in (self.searches, self.thumbs, self.uploads):
            pool.close()
        self.handed.close()


class Handler(web.RequestHandler):
    """What all have in common: who is let in, and how errors are told."""

    def initialize(self, service: Service) -> None:
        """Take what it stands on."""
        self.service = service
        self._job: asyncio.Future[Any] | None = None
        self._gone = False

    def set_default_headers(self) -> None:
        """Those of every answer."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Turn away who is not let in."""
        self._stream = getattr(self.request.connection, "stream", None)
        self.service.connections.begin(self._stream)
        why = self.service.guard.refuses(
            self.request.headers,
            changes=self.request.method not in ("GET", "HEAD"),
            page=self.request.path == "/",
        )
        if why is not None:
            self.refuse(403, why)

    def refuse(self, status: int, why: str) -> None:
        """Answer with an error."""
        self.set_status(status)
        if status == 503:
            self.set_header("Retry-After", "1")
        self.tell({"error": why})

    def tell(self, answer: dict[str, Any]) -> None:
        """Answer with JSON."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(answer))

    async def in_thread(self, pool: Pool, call: Callable[..., Any], *args: Any) -> Any:
        """Call in a thread of *pool*; a visitor who is gone waits for nothing."""
        self._job = asyncio.ensure_future(pool.run(call, *args))
        try:
            return await self._job
        except asyncio.CancelledError:
            if not self._gone:
                raise
            raise web.Finish from None

    def on_finish(self) -> None:
        """Note that the connection is idle again."""
        super().on_finish()
        self.service.connections.end(self._stream)

    def on_connection_close(self) -> None:
        """Leave the line."""
        super().on_connection_close()
        self._gone = True
        if self._job is not None:
            self._job.cancel()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A sentence, whatever happened."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, QueryError):
            self.refuse(400, str(error))
        elif isinstance(error, BusyError):
            self.refuse(503, f"{error}: try again in a moment.")
        elif isinstance(error, TesseraeError):
            self.refuse(500, str(error))
        elif isinstance(error, web.HTTPError):
            self.refuse(status_code, error.log_message or str(error.reason or "it did not work."))
        else:
            self.refuse(status_code, "something went wrong here; the terminal says what.")

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Say in the terminal what a visitor is not to be told."""
        if isinstance(value, (QueryError, BusyError, web.HTTPError)):
            return
        lines = [] if isinstance(value, TesseraeError) else traceback.format_tb(trace)
        said = [*"".join(lines).splitlines(), f"{self.request.path}: {kind.__name__}: {value}"]
        print("\n".join(printable(line) for line in said), file=sys.stderr, flush=True)
