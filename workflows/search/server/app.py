"""The page on which a run is searched: where it listens, and for how long.

    GET  /  /search.js  /search.css     the page
    GET  /api/about                     what is searched
    GET  /api/search?q=                 answers; k, to, split, class, csls, given: see `read_wanted`
    POST /api/search?q=                 the same of a picture, which is the body
    GET  /thumb/<split>/<row>.jpg       a stored picture, of the size nearest to ?size=
    GET  /given/<name>.jpg              a picture that was handed in, as the model saw it

What a visitor says never becomes the name of a file. Errors are {"error": a sentence}.
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
from workflows.search.connections import Connections
from workflows.search.server.base_handler import FILES, Service
from workflows.search.server.handlers import About, Files, Given, Icon, Nothing, Thumb
from workflows.search.server.search_handler import BODY_SECONDS, Search

IDLE_SECONDS = 30.0
"""That a connection may be open without a word."""
HEADER_BYTES, BODY_BYTES = 16 * 2**10, 64 * 2**10
"""Most of a request that hands nothing in."""


def application(service: Service) -> web.Application:
    """All addresses."""
    of = {"service": service}
    return web.Application(
        [
            *((re.escape(url), Files, of) for url in FILES),
            (r"/favicon\.ico", Icon, of),
            (r"/api/about", About, of),
            (r"/api/search", Search, of),
            (r"/thumb/([^/]+)/([^/]+)\.jpg", Thumb, of),
            (r"/given/([0-9a-f]{32})\.jpg", Given, of),
        ],
        default_handler_class=Nothing,
        default_handler_args=of,
        log_function=lambda handler: None,  # who asked what is nobody's business
    )


class _Server(HTTPServer):
    """Keeps the number of open connections below a limit: beyond it files would run out."""

    connections: Connections
    """Set before the server listens."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if not self.connections.admit(stream):
            stream.close()
            return
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        self.connections.remove(server_conn.stream)
        super().on_close(server_conn)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host, before anything else takes its time.

    Raises:
        TesseraeError: The port is taken, or the address is not of this machine.
        ValueError: The port is none.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}: expected 0 to 65535.")
    found: list[socket.socket] = []
    try:
        for family, address in _addresses(host, port):
            if found and not port:  # any that is free, but the same
                address = (address[0], found[0].getsockname()[1], *address[2:])
            found.append(socket.create_server(address, family=family))
    except (OSError, UnicodeError) as e:
        for one in found:
            one.close()
        raise TesseraeError(f"cannot listen on port {port} of {host}: {_why(e)}.") from e
    for one in found:
        one.setblocking(False)
    return found


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found = {(int(family), address) for family, *_, address in infos}
    if len(found) > 1 and not _has_ipv6():
        found = {one for one in found if one[0] != socket.AF_INET6}
    return sorted(found)


def _has_ipv6() -> bool:
    # A name such as localhost may have an address of a kind that is switched off.
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _why(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return "something else listens there. Choose another --port, or 0 for any that is free"
    if number == errno.EACCES:
        return "only root may listen there. Choose a --port above 1023"
    return f"{getattr(error, 'strerror', None) or error}. Choose a --host of this machine"


def address_of(sockets: list[socket.socket], host: str) -> str:
    """What to open in a browser."""
    port = sockets[0].getsockname()[1]
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


async def serve(
    service: Service, sockets: list[socket.socket], started: Callable[[], None]
) -> None:
    """Answer until it is cancelled.

    Args:
        service: What is served.
        sockets: As `bind` made them; closed at the end.
        started: Called once visitors are answered.
    """
    server = _Server(
        application(service),
        idle_connection_timeout=IDLE_SECONDS,
        body_timeout=BODY_SECONDS,
        max_header_size=HEADER_BYTES,
        max_body_size=BODY_BYTES,
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
