"""Who is let in, and what a browser may do with what it gets.

A page of another site can make a browser send requests here, and by giving its own name an address
of this machine (DNS rebinding) even read the answers. So the name that was asked for must be one of
ours, and nothing but our own page may hand in pictures or ask for answers.
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
"""Of every answer, unless it says otherwise."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Knows the names of a server."""

    def __init__(self, host: str, allowed: Sequence[str] = ()) -> None:
        """Take the name or address that it listens on.

        Args:
            host: That name or address.
            allowed: Names by which a reverse proxy or the DNS leads here, without a port.

        Raises:
            ValueError: One of *allowed* is no single name or address.
        """
        self._allowed = frozenset(map(_checked_name, allowed))
        self._names = {*LOOPBACK, host.lower(), *self._allowed}
        self._anywhere = host in ("", "0.0.0.0", "::")
        if self._anywhere:
            self._names.add(socket.gethostname().lower())

    def refuses(
        self, headers: Mapping[str, str], *, changes: bool, page: bool = False
    ) -> str | None:
        """Why a request is turned away; None: it is let in.

        Args:
            headers: Of the request.
            changes: Whether it hands something in.
            page: Whether it is for the page itself, to which any site may link.
        """
        host = headers.get("Host", "")
        if not self._is_ours(host):
            return (
                f"this server is not called {host[:100]!r}: open it by its own name or address, or"
                " start it with --allow-host and that name."
            )
        origin = headers.get("Origin")
        if changes and origin is not None and not self._is_own_page(origin, host):
            return (
                f"a page of {origin[:100]!r} may not hand pictures in here. If that is what this"
                " server is called there, start it with --allow-host and that name."
            )
        if not page and headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return "only the page of this server itself may ask it."
        return None

    def _is_own_page(self, origin: str, host: str) -> bool:
        """Return True if *origin* is of the page itself; a proxy may have changed the host."""
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
    # Nobody can rebind a number.
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str | None:
    """Return the name of a Host header in lower case, without its port; None: it is malformed."""
    found = _HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower()


def _checked_name(name: str) -> str:
    """Return a name as browsers send it, or refuse what is none."""
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
