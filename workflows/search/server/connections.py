"""The open connections of a server, of which the one idle for longest is closed at the limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Connections:
    """The idle and busy connections of a server, each identified by its tornado `IOStream`.

    Only the event loop's thread may use it.
    """

    def __init__(self, limit: Callable[[], int]) -> None:
        """Create an empty set of connections.

        Args:
            limit: A function that returns the number of connections that may be open at once.
        """
        self._limit = limit
        self._idle: OrderedDict[Any, None] = OrderedDict()
        self._busy: set[Any] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def admit(self, stream: Any) -> bool:
        """Add a connection, as idle, if the limit permits it.

        At the limit, which a function decides, as in `Connections(lambda: 256)`, the connection
        that has been idle for longest is closed in favour of the new one, so that idle connections
        never lock out other clients.

        Args:
            stream: The stream of the new connection, a `tornado.iostream.IOStream`.

        Returns:
            False if the limit is reached and all connections are busy; the caller then closes
            *stream*.
        """
        if len(self) >= self._limit():
            if not self._idle:
                return False
            oldest, _ = self._idle.popitem(last=False)
            oldest.close()
        self._idle[stream] = None
        return True

    def begin(self, stream: Any) -> None:
        """Mark a connection as busy, after a complete request has arrived on it.

        Args:
            stream: The stream of the connection, as passed to `admit`; one that is not idle, or
                None, is ignored.
        """
        if stream in self._idle:
            del self._idle[stream]
            self._busy.add(stream)

    def end(self, stream: Any) -> None:
        """Mark a connection as idle, after its request has been answered.

        Args:
            stream: The stream of the connection, as passed to `admit`; one that is not busy, or
                None, is ignored.
        """
        if stream in self._busy:
            self._busy.discard(stream)
            self._idle[stream] = None

    def remove(self, stream: Any) -> None:
        """Remove a closed connection.

        Args:
            stream: The stream of the connection, as passed to `admit`; an unknown one is ignored.
        """
        self._idle.pop(stream, None)
        self._busy.discard(stream)
