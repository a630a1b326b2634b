"""A visitor's question, and the picture that may come with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from tornado import web

from pipeline.images.formats import HEAD_BYTES
from workflows.search.engine import Wanted
from workflows.search.gallery import MOST_BYTES, format_of, unreadable
from workflows.search.query import Query, QueryError, parse
from workflows.search.server.base_handler import UPLOADS, Handler, Service
from workflows.search.server.uploads import Handed

BODY_SECONDS = 60.0
"""That handing in a picture may take."""


@web.stream_request_body
class Search(Handler):
    """Answers."""

    def initialize(self, service: Service) -> None:
        """See `Handler`."""
        super().initialize(service)
        self._body = bytearray()
        self._inside = False

    def prepare(self) -> None:
        """Before the first byte of a picture is read: is it too large, are there too many?"""
        super().prepare()
        if self._finished or self.request.method != "POST":
            return
        connection: Any = self.request.connection
        connection.set_max_body_size(2**40)  # we say ourselves what is too much, and in words
        connection.set_body_timeout(BODY_SECONDS)
        length = self.request.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,15}", length) or int(length) > MOST_BYTES:
            self._too_large()
        elif self.service.uploading >= UPLOADS:
            self.refuse(503, "too many pictures are being handed in: try again in a moment.")
        else:
            self.service.uploading += 1
            self._inside = True

    def data_received(self, chunk: bytes) -> None:
        """A piece of the picture."""
        if self._finished or not self._inside:
            return
        if len(self._body) + len(chunk) > MOST_BYTES:
            self._too_large()
        else:
            self._body += chunk

    def _too_large(self) -> None:
        self._body.clear()
        self.refuse(413, f"the picture is too large: expected at most {MOST_BYTES:,} bytes.")

    def on_finish(self) -> None:
        """Let the next one in."""
        super().on_finish()
        self._leave()

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self.service.uploading -= 1

    def on_connection_close(self) -> None:
        """See `Handler`."""
        super().on_connection_close()
        self._leave()

    async def get(self) -> None:
        """Of words and stored pictures, and of a picture that was handed in before."""
        name = self.get_query_argument("given", "")
        given = self.service.handed.get(name) if name else None
        if name and given is None:
            self.refuse(410, "that picture is no longer remembered: hand it in again.")
            return
        await self._answer(*self._asked(given=given is not None), given)

    async def post(self) -> None:
        """Of a picture, and of what goes with it."""
        if self._finished:
            return
        if format_of(bytes(self._body[:HEAD_BYTES])) is None:
            self.refuse(415, unreadable("that", bytes(self._body)))
            return
        asked = self._asked(given=True)  # a mistake in it is told before a picture is decoded
        take = self.service.handed.take
        given = await self.in_thread(self.service.uploads, take, bytes(self._body))
        await self._answer(*asked, given)

    def _asked(self, *, given: bool) -> tuple[Query, Wanted]:
        wanted = read_wanted(self.get_query_argument, self.get_query_arguments)
        if wanted.csls and not self.service.csls:
            raise QueryError("csls was not measured: start the server with --csls.")
        return parse(self.get_query_argument("q", ""), given=given), wanted

    async def _answer(self, query: Query, wanted: Wanted, given: Handed | None) -> None:
        engine = self.service.engine

        def search() -> dict[str, Any]:
            vector = None if given is None else given.vector
            return asdict(engine.search(query, wanted, given=vector))

        found = await self.in_thread(self.service.searches, search)
        self.tell({**found, "given": None if given is None else given.name})


def read_wanted(one: Callable[[str, str], str], many: Callable[[str], list[str]]) -> Wanted:
    """What the arguments of a request ask for.

    k: how many answers (24); to: images, words or both (images); split and class, each as often as
    there are some: whose pictures (all); csls=1: make up for hubs.

    Raises:
        QueryError: A number is none.
    """
    k = one("k", "24")
    if not re.fullmatch("[0-9]{1,6}", k, re.ASCII):
        raise QueryError(f"k is {k[:20]!r}: expected a whole number.")
    return Wanted(
        k=int(k),
        to=one("to", "images"),
        splits=tuple(name for name in many("split") if name),
        classes=tuple(name for name in many("class") if name),
        csls=one("csls", "0") == "1",
    )
