"""The access control of the server, and the security headers of its responses.

A page of another site can make a browser send requests to this server. By giving its own name the
address of this machine (DNS rebinding) it could even read the responses. Therefore the requested
host must be a name of this server, and only its own page may search or upload images.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from types import MappingProxyType

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?")
_HOST = re.compile(r"(\[[0-9a-f:.%]+\]|[^:/@,\s\[\]]+)(:[0-9]{1,5})?", re.IGNORECASE)

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": (
            "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none';"
            " object-src 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-store",
        "Server": "tesserae",
    }
)
"""The headers of every response; a handler may override them."""


class Guard:
    """A check of requests against the names of the server."""

    def __init__(self, host: str, allowed: Sequence[str] = ()) -> None:
        """Collect the names of the server.

        Args:
            host: The name or address that the server listens on.
            allowed: Further names without a port, such as those of a reverse proxy or in the DNS.

        Raises:
            ValueError: One of *allowed* is no single name or address.
        """
        self._allowed = frozenset(map(_checked_name, allowed))
        self._names = {*LOOPBACK, host.lower(), *self._allowed}
        self._anywhere = host in ("", "0.0.0.0", "::")
        if self._anywhere:
            self._names.add(socket.gethostname().lower())

    def refusal(
        self, headers: Mapping[str, str], *, changes: bool, page: bool = False
    ) -> str | None:
        """Return the reason to refuse a request; None if it is admitted.

        `Guard("127.0.0.1")` knows that name, localhost and the other loopback address.

        Args:
            headers: The headers of the request, looked up as `Host`, `Origin` and `Sec-Fetch-Site`,
                spelt like this in a plain dict. `Host` is a name of this server, with any port or
                none; without it the request is refused. The others are checked if they are there.
            changes: True if the request uploads an image: its `Origin`, if it has one, must then be
                this server.
            page: True if it requests the page itself, to which any site may link (default False).

        Returns:
            A sentence for the client, or None.
        """
        host = headers.get("Host", "")
        if not self._is_ours(host):
            return (
                f"{host[:100]!r} is not a name of this server: open it by its own name or address,"
                " or start it with --allow-host and that name."
            )
        origin = headers.get("Origin")
        if changes and origin is not None and not self._is_own_page(origin, host):
            return (
                f"a page of {origin[:100]!r} may not upload images here. If that is a name of this"
                " server, start it with --allow-host and that name."
            )
        if not page and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "only this server's own page may send requests to it."
        return None

    def _is_own_page(self, origin: str, host: str) -> bool:
        """Return True if *origin* is that of the page; a proxy may have changed the Host header."""
        scheme, _, own = origin.lower().partition("://")
        if scheme not in ("http", "https"):
            return False
        return own == host.lower() or _name_of(own) in self._allowed

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host)
        if name is None:
            return False
        return name in self._names or (self._anywhere and _is_address(name))


def _is_address(name: str) -> bool:
    # Addresses need no list of names: DNS rebinding needs a name.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str | None:
    """Return the host of a Host header in lower case, without its port; None if malformed."""
    match = _HOST.fullmatch(host)
    return None if match is None else match[1].strip("[]").lower()


def _checked_name(name: str) -> str:
    """Return a host name as browsers send it (IDNA); raise ValueError for any other text."""
    bare = name.strip().strip("[]").lower()
    try:
        sent = bare if _is_address(bare) else bare.encode("idna").decode("ascii")
    except UnicodeError:
        sent = ""
    if not (_is_address(sent) or _NAME.fullmatch(sent)):
        raise ValueError(
            f"--allow-host is {name!r}: expected one name or address without a scheme, port or"
            " wildcard, such as search.example.org. Pass the option again for each further name."
        )
    return sent
