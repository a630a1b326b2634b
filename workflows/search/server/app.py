"""The HTTP server of the search page: its routes, sockets and life cycle.

    GET  /  /search.js  /search.css     the page
    GET  /api/about                     a description of the engine
    GET  /api/search?q=                 answers; k, to, split, class, csls, given: `read_options`
    POST /api/search?q=                 answers for the image in the body
    GET  /api/download?q=               answers as a file; format, and the arguments of a search
    GET  /thumb/<split>/<row>.jpg       a stored image, of the size nearest to ?size=
    GET  /given/<name>.jpg              an uploaded image, in the size that the model took

No text of a request ever becomes the name of a file. Errors are {"error": a sentence}.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import Callable
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream

from pipeline.errors import TesseraeError
from workflows.search.server.connections import Connections
from workflows.search.server.handlers import (
    AboutHandler,
    FaviconHandler,
    NotFoundHandler,
    PageFileHandler,
    ThumbnailHandler,
    UploadHandler,
)
from workflows.search.server.search_handler import BODY_SECONDS, DownloadHandler, SearchHandler
from workflows.search.server.service import FILES, SearchService

IDLE_SECONDS = 30.0
"""The number of seconds that a connection may stay idle."""
MAX_HEADER_BYTES, MAX_BODY_BYTES = 16 * 2**10, 64 * 2**10
"""The limits of a request's headers, and of its body unless it is an upload."""


def application(service: SearchService) -> web.Application:
    """Return the tornado application with all routes of the search page.

    Args:
        service: The state that all handlers share, such as `SearchService(engine, "127.0.0.1",
            csls=False)`: the engine, the guard, the pools of threads, the connections and the cache
            of uploads. The caller closes it.
    """
    arguments = {"service": service}
    return web.Application(
        [
            *((re.escape(url), PageFileHandler, arguments) for url in FILES),
            (r"/favicon\.ico", FaviconHandler, arguments),
            (r"/api/about", AboutHandler, arguments),
            (r"/api/search", SearchHandler, arguments),
            (r"/api/download", DownloadHandler, arguments),
            (r"/thumb/([^/]+)/([^/]+)\.jpg", ThumbnailHandler, arguments),
            (r"/given/([0-9a-f]{32})\.jpg", UploadHandler, arguments),
        ],
        default_handler_class=NotFoundHandler,
        default_handler_args=arguments,
        log_function=lambda handler: None,  # queries are private: requests are not logged
    )


class _Server(HTTPServer):
    """An HTTP server with a limit on open connections, because file descriptors are limited."""

    connections: Connections
    """The open connections; the caller sets it before the server listens."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if not self.connections.admit(stream):
            stream.close()
            return
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        self.connections.remove(server_conn.stream)
        super().on_close(server_conn)


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind sockets to every address of a host, and listen.

    Args:
        host: A name or address of this machine; empty for all interfaces.
        port: The port; 0 selects a free one, the same for all addresses.

    Returns:
        A listening, non-blocking socket for each address of the host; the caller closes them.

    Raises:
        TesseraeError: The port is taken or reserved for root, the name is unknown, or the address
            does not belong to this machine.
        ValueError: The port is out of range.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}: expected 0 to 65535.")
    sockets: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if sockets and not port:  # use the port that the first socket got
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            sockets.append(socket.create_server(address, family=family))
    except (OSError, UnicodeError) as e:
        for opened in sockets:
            opened.close()
        raise TesseraeError(f"cannot listen on port {port} of {host}: {_why(e)}.") from e
    for opened in sockets:
        opened.setblocking(False)
    return sockets


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = {(int(family), address) for family, *_, address in infos}
    if len(addresses) > 1 and not _has_ipv6():
        addresses = {address for address in addresses if address[0] != socket.AF_INET6}
    return sorted(addresses)


def _has_ipv6() -> bool:
    # A name such as localhost may resolve to ::1 although IPv6 is disabled on this machine.
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return "another process listens on it. Choose another --port, or 0 for any free one"
    if number == errno.EACCES:
        return "only root may listen on it. Choose a --port above 1023"
    return f"{getattr(error, 'strerror', None) or error}. Choose a --host of this machine"


def address_of(sockets: list[socket.socket], host: str) -> str:
    """Return the URL to open in a browser on this machine, such as `http://127.0.0.1:8780/`.

    Args:
        sockets: The sockets from `bind`, one or more of the same port.
        host: The host that was passed to `bind`; for all interfaces the URL has the loopback
            address.
    """
    port = sockets[0].getsockname()[1]
    displayed = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{displayed}]' if ':' in displayed else displayed}:{port}/"


async def serve(
    service: SearchService, sockets: list[socket.socket], started: Callable[[], None]
) -> None:
    """Serve requests until the coroutine is cancelled.

    Args:
        service: The state that the handlers share, which the caller closes.
        sockets: The listening sockets from `bind`, which are closed at the end.
        started: A function that is called once the server accepts connections.
    """
    server = _Server(
        application(service),
        idle_connection_timeout=IDLE_SECONDS,
        body_timeout=BODY_SECONDS,
        max_header_size=MAX_HEADER_BYTES,
        max_body_size=MAX_BODY_BYTES,
    )
    server.connections = service.connections
    server.add_sockets(sockets)
    try:
        started()
        await asyncio.Event().wait()
    finally:
        server.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.close_all_connections(), 1)
