"""The base of all request handlers: access control and error responses."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from tornado import web

from pipeline.errors import TesseraeError
from workflows.search.query import QueryError
from workflows.search.server.security import HEADERS
from workflows.search.server.service import SearchService
from workflows.search.server.thread_pool import BoundedThreadPool, BusyError
from workflows.terminal.formatting import printable


class BaseHandler(web.RequestHandler):
    """The base of all handlers, with access control and error responses in JSON."""

    def initialize(self, service: SearchService) -> None:
        """Keep the shared state; tornado calls this for each request, instead of a constructor.

        Args:
            service: The state that all handlers share.
        """
        self.service = service
        self._job: asyncio.Future[Any] | None = None
        self._disconnected = False

    def set_default_headers(self) -> None:
        """Set the security headers of every response."""
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Mark the connection as busy, and refuse a request that the guard rejects."""
        self._stream = getattr(self.request.connection, "stream", None)
        self.service.connections.begin(self._stream)
        reason = self.service.guard.refusal(
            self.request.headers,
            changes=self.request.method not in ("GET", "HEAD"),
            page=self.request.path == "/",
        )
        if reason is not None:
            self.refuse(403, reason)

    def refuse(self, status: int, reason: str) -> None:
        """Respond with `{"error": reason}`, and finish the request.

        Args:
            status: The HTTP status, 400 or more; 503 also gets the header `Retry-After: 1`.
            reason: A sentence for the person who searches.

        Raises:
            RuntimeError: The request is finished already.
        """
        self.set_status(status)
        if status == 503:
            self.set_header("Retry-After", "1")
        self.send_json({"error": reason})

    def send_json(self, answer: dict[str, Any]) -> None:
        """Respond with a JSON object, and finish the request.

        The status is the one that was set before, or 200.

        Args:
            answer: The plain JSON values of the object, by name.

        Raises:
            TypeError: A value is no JSON.
            RuntimeError: The request is finished already.
        """
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(answer))

    async def in_thread(self, pool: BoundedThreadPool, call: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a thread, without blocking the event loop, and return its result.

        Args:
            pool: The pool that has the thread.
            call: The function. An exception that it raises is raised here.
            args: Its positional arguments.

        Raises:
            BusyError: The pool has too many calls, or the call timed out.
            tornado.web.Finish: The client has disconnected, which ends the request.
        """
        self._job = asyncio.ensure_future(pool.run(call, *args))
        try:
            return await self._job
        except asyncio.CancelledError:
            # The task is cancelled when the server stops, too: only a lost client ends quietly.
            if not self._disconnected:
                raise
            raise web.Finish from None

    def close_connection(self) -> None:
        """Close the connection of a client that has not read the whole response."""
        if self._stream is not None:
            self._stream.close()

    def on_finish(self) -> None:
        """Mark the connection as idle."""
        super().on_finish()
        self.service.connections.end(self._stream)

    def on_connection_close(self) -> None:
        """Cancel the call of a client that has disconnected."""
        super().on_connection_close()
        self._disconnected = True
        if self._job is not None:
            self._job.cancel()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Respond to an exception that a handler raised with a status and a sentence.

        Args:
            status_code: The status that tornado suggests. A `QueryError` gets 400, a `BusyError`
                503, and any other `TesseraeError` 500; all others keep it.
            kwargs: The exception, under `exc_info`: its (type, value, traceback). The text of an
                exception that is neither a `TesseraeError`, a `BusyError` nor tornado's `HTTPError`
                is not sent.
        """
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, QueryError):
            self.refuse(400, str(error))
        elif isinstance(error, BusyError):
            self.refuse(503, f"{error}: try again in a moment.")
        elif isinstance(error, TesseraeError):
            self.refuse(500, str(error))
        elif isinstance(error, web.HTTPError):
            self.refuse(
                status_code, error.log_message or str(error.reason or "the request failed.")
            )
        else:
            self.refuse(
                status_code, "an internal error occurred: the server's terminal has the details."
            )

    def log_exception(self, kind: Any, value: Any, trace: Any) -> None:
        """Print an unexpected exception to standard error; the client gets no details.

        Nothing is printed for a `QueryError`, a `BusyError` or tornado's `HTTPError`, and no
        traceback for any other `TesseraeError`.

        Args:
            kind: The class of the exception.
            value: The exception.
            trace: Its traceback.
        """
        if isinstance(value, (QueryError, BusyError, web.HTTPError)):
            return
        lines = [] if isinstance(value, TesseraeError) else traceback.format_tb(trace)
        output = [*"".join(lines).splitlines(), f"{self.request.path}: {kind.__name__}: {value}"]
        print("\n".join(printable(line) for line in output), file=sys.stderr, flush=True)
