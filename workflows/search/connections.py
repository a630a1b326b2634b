"""The open connections of a server: of those that ask for nothing, the oldest gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Connections:
    """Connections, by whether a request is being answered on them. Used by one thread."""

    def __init__(self, limit: Callable[[], int]) -> None:
        """Start with none.

        Args:
            limit: Returns how many may be open at once.
        """
        self._limit = limit
        self._idle: OrderedDict[Any, None] = OrderedDict()
        self._busy: set[Any] = set()

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def admit(self, stream: Any) -> bool:
        """Add a connection; return False if all that are open are being answered.

        Where there are as many as there may be, the one that has been idle for the longest is
        closed for it: whoever holds connections open and asks for nothing keeps nobody out.
        """
        if len(self) >= self._limit():
            if not self._idle:
                return False
            oldest, _ = self._idle.popitem(last=False)
            oldest.close()
        self._idle[stream] = None
        return True

    def begin(self, stream: Any) -> None:
        """Note that a whole request has come in on a connection."""
        if stream in self._idle:
            del self._idle[stream]
            self._busy.add(stream)

    def end(self, stream: Any) -> None:
        """Note that the request of a connection has been answered."""
        if stream in self._busy:
            self._busy.discard(stream)
            self._idle[stream] = None

    def remove(self, stream: Any) -> None:
        """Forget a connection that was closed; one that is not known is no error."""
        self._idle.pop(stream, None)
        self._busy.discard(stream)
