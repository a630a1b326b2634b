"""The handlers of searches, of the images that may come with them, and of results as files."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any

from tornado import web
from tornado.iostream import StreamClosedError

from pipeline.images.formats import HEAD_BYTES
from workflows.search.engine import SearchOptions
from workflows.search.query import Query, QueryError, parse_query
from workflows.search.query_image import (
    MAX_IMAGE_BYTES,
    accepted_format_of,
    unsupported_query_image_message,
)
from workflows.search.results_file import CSV, FORMATS, write_results
from workflows.search.server.base_handler import BaseHandler
from workflows.search.server.service import MAX_UPLOADS, SearchService
from workflows.search.server.uploads import Upload

BODY_SECONDS = 60.0
"""The number of seconds that an upload may take."""
MAX_MEMORY_BYTES = 16 * 2**20
"""The size of a download beyond which it is kept in a temporary file instead of in memory."""
MAX_DOWNLOAD_BYTES = 2**30
"""The largest size of an archive, which is made on the disk of the server."""
SENT_BYTES = 2**18
"""The bytes of a download that are sent at once."""
MAX_OPEN_DOWNLOADS = 16
"""The number of downloads at once, each of which keeps a file until its client has read it."""
PIECE_SECONDS = 60.0
"""The seconds in which a client must have taken these bytes."""


class QueryHandler(BaseHandler):
    """The base of handlers of requests that have a query and the options of a search."""

    def find_upload(self) -> Upload | None:
        """Return the image that the argument `given` names; None if there is no such argument.

        Raises:
            tornado.web.HTTPError: It is no longer in the cache (status 410).
        """
        name = self.get_query_argument("given", "")
        upload = self.service.upload_cache.get(name) if name else None
        if name and upload is None:
            raise web.HTTPError(410, "that image is no longer in the cache: upload it again.")
        return upload

    def parse_request(self, *, has_image: bool) -> tuple[Query, SearchOptions]:
        """Return the query and the options of the request.

        Args:
            has_image: True if an image comes with the query.

        Raises:
            QueryError: The query or an option is invalid, or is not available.
        """
        options = read_options(self.get_query_argument, self.get_query_arguments)
        if options.csls and not self.service.csls:
            raise QueryError("CSLS is not available: start the server with --csls.")
        return parse_query(self.get_query_argument("q", ""), has_image=has_image), options


class DownloadHandler(QueryHandler):
    """The handler of results as files."""

    async def get(self) -> None:
        """Respond with a file of the results of a query: `?format=` csv, json or zip."""
        format = self.get_query_argument("format", CSV)
        if format not in FORMATS:
            expected = ", ".join(FORMATS)
            self.refuse(400, f"format is {format[:20]!r}: expected one of {expected}.")
            return
        upload = self.find_upload()
        query, options = self.parse_request(has_image=upload is not None)
        if self.service.downloading >= MAX_OPEN_DOWNLOADS:
            self.refuse(503, "too many files are being downloaded: try again in a moment.")
            return
        self.service.downloading += 1
        try:
            await self._send(format, query, options, upload)
        finally:
            self.service.downloading -= 1

    async def _send(
        self, format: str, query: Query, options: SearchOptions, upload: Upload | None
    ) -> None:
        engine = self.service.engine

        def write() -> IO[bytes]:
            """Return a file with the results, open at its end."""
            vector = None if upload is None else upload.vector
            answer = engine.search(query, options, image_vector=vector)
            file: IO[bytes] = tempfile.SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115
            try:
                write_results(answer, engine.gallery, format, file, max_bytes=MAX_DOWNLOAD_BYTES)
            except BaseException:
                file.close()
                raise
            return file

        with await self.in_thread(self.service.downloads, write) as file:
            self.set_header("Content-Type", FORMATS[format])
            self.set_header(
                "Content-Disposition", f'attachment; filename="search-results.{format}"'
            )
            self.set_header("Content-Length", str(file.tell()))
            file.seek(0)
            try:
                while piece := file.read(SENT_BYTES):
                    self.write(piece)
                    await asyncio.wait_for(self.flush(), PIECE_SECONDS)
            except (StreamClosedError, TimeoutError, asyncio.CancelledError):
                # The client has cancelled or reads no more, or the server stops.
                self.close_connection()
                return
        self.finish()


@web.stream_request_body
class SearchHandler(QueryHandler):
    """The handler of searches; the body of a POST request is an image, read as a stream."""

    def initialize(self, service: SearchService) -> None:
        """Keep the shared state, and start with an empty body.

        Args:
            service: The state that all handlers share.
        """
        super().initialize(service)
        self._body = bytearray()
        self._holds_slot = False

    def prepare(self) -> None:
        """Refuse an upload that is too large, or one too many, before its first byte is read."""
        super().prepare()
        if self._finished or self.request.method != "POST":
            return
        connection: Any = self.request.connection
        # tornado's own limit gives no helpful response, so the size is checked here instead.
        connection.set_max_body_size(2**40)
        connection.set_body_timeout(BODY_SECONDS)
        length = self.request.headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,15}", length) or int(length) > MAX_IMAGE_BYTES:
            self._too_large()
        elif self.service.uploading >= MAX_UPLOADS:
            self.refuse(503, "too many images are being uploaded: try again in a moment.")
        else:
            self.service.uploading += 1
            self._holds_slot = True

    def data_received(self, chunk: bytes) -> None:
        """Append a piece of the image to the body; tornado calls this for each piece that arrives.

        A piece with which the body exceeds 20 MiB makes the status 413 and clears the body. Pieces
        are dropped unless `prepare` has admitted a POST request.

        Args:
            chunk: The bytes of the piece, in the order of the body.
        """
        if self._finished or not self._holds_slot:
            return
        if len(self._body) + len(chunk) > MAX_IMAGE_BYTES:
            self._too_large()
        else:
            self._body += chunk

    def _too_large(self) -> None:
        self._body.clear()
        self.refuse(413, f"the image is too large: expected at most {MAX_IMAGE_BYTES:,} bytes.")

    def on_finish(self) -> None:
        """Free the upload slot of this request."""
        super().on_finish()
        self._free_slot()

    def _free_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            self.service.uploading -= 1

    def on_connection_close(self) -> None:
        """Cancel the search and free the upload slot of a client that has disconnected."""
        super().on_connection_close()
        self._free_slot()

    async def get(self) -> None:
        """Respond to a query of words, stored images and an image that was uploaded before."""
        upload = self.find_upload()
        await self._answer(*self.parse_request(has_image=upload is not None), upload)

    async def post(self) -> None:
        """Respond to a query with the image in the body."""
        if self._finished:
            return
        if accepted_format_of(bytes(self._body[:HEAD_BYTES])) is None:
            self.refuse(415, unsupported_query_image_message("the file", bytes(self._body)))
            return
        # Parse first: a mistake in the query is reported without decoding the image.
        query_and_options = self.parse_request(has_image=True)
        add = self.service.upload_cache.add
        upload = await self.in_thread(self.service.uploads, add, bytes(self._body))
        await self._answer(*query_and_options, upload)

    async def _answer(self, query: Query, options: SearchOptions, upload: Upload | None) -> None:
        engine = self.service.engine

        def search() -> dict[str, Any]:
            vector = None if upload is None else upload.vector
            return asdict(engine.search(query, options, image_vector=vector))

        answer = await self.in_thread(self.service.searches, search)
        self.send_json({**answer, "given": None if upload is None else upload.name})


def read_options(
    get_one: Callable[[str, str], str], get_all: Callable[[str], list[str]]
) -> SearchOptions:
    """Read the search options from the arguments of a request.

    The arguments are k, the number of answers (default 24); to, which is images, words or both
    (default images); split and class, which may be repeated and restrict the images (default: all);
    csls=1, which lowers the scores of hubs; and fold=0, with which copies of an image are answers
    of their own. Their values are checked by `Engine.search`.

    Args:
        get_one: A function (name, default) that returns the text of one argument, or the default.
        get_all: A function (name) that returns the texts of all arguments of a name; empty if there
            are none.

    Raises:
        QueryError: k is no whole number of up to six digits.
    """
    k = get_one("k", "24")
    if not re.fullmatch("[0-9]{1,6}", k, re.ASCII):
        raise QueryError(f"k is {k[:20]!r}: expected a whole number.")
    return SearchOptions(
        k=int(k),
        to=get_one("to", "images"),
        splits=tuple(name for name in get_all("split") if name),
        classes=tuple(name for name in get_all("class") if name),
        csls=get_one("csls", "0") == "1",
        fold=get_one("fold", "1") != "0",
    )
