"""The handlers of the page, its images and the description of the engine."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflows.search.engine import MAX_ANSWERS
from workflows.search.query import QueryError
from workflows.search.query_image import FORMATS, MAX_IMAGE_BYTES
from workflows.search.server.base_handler import BaseHandler
from workflows.search.server.service import SearchService

FIRST_IMAGES = 24
"""The number of images on the page before the first search."""


class PageFileHandler(BaseHandler):
    """The handler of the page's files."""

    def get(self) -> None:
        """Respond with the file of the request's path."""
        data, kind = self.service.files[self.request.path]
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-cache")
        self.finish(data)


class NotFoundHandler(BaseHandler):
    """The handler of unknown paths."""

    def prepare(self) -> None:
        """Respond with status 404, if the guard has admitted the request."""
        super().prepare()
        if not self._finished:
            self.refuse(404, "there is no such path on this server.")


class FaviconHandler(BaseHandler):
    """The handler of /favicon.ico, which browsers request on their own."""

    def get(self) -> None:
        """Respond with status 204: there is no icon."""
        self.set_status(204)


class AboutHandler(BaseHandler):
    """The handler that describes the engine."""

    async def get(self) -> None:
        """Respond with the description as JSON."""
        self.send_json(await self.in_thread(self.service.searches, search_page_facts, self.service))


def search_page_facts(service: SearchService) -> dict[str, Any]:
    """Return the facts that the page needs before its first search, as JSON values.

    Args:
        service: The shared state.

    Returns:
        `store` (the last part of its path), `splits` (a list with `name`, `rows` (the number of
        readable rows) and `index` (a description) of each), the numbers `classes` (of the model),
        `store_classes`, `words` and `dim`, `csls` (True if it is available), `formats` (the names
        of the accepted image formats), the limits `most_bytes` (of an upload) and `most_answers`,
        `examples` (up to three queries as text) and `first` (the fields of an `ImageHit` for each
        of up to 24 images).

    Raises:
        StoreDamagedError: The table of the samples is unreadable.
    """
    engine = service.engine
    return {
        "store": Path(engine.model.store.rstrip("/")).name,
        "splits": [
            {"name": name, "rows": int(embedded.readable.sum()), "index": str(embedded.index)}
            for name, embedded in engine.embedded.items()
        ],
        "classes": len(engine.model.classes),
        "store_classes": len(engine.gallery.recipe.classes),
        "words": len(engine.words),
        "dim": engine.model.dim,
        "csls": service.csls,
        "formats": list(FORMATS),
        "most_bytes": MAX_IMAGE_BYTES,
        "most_answers": MAX_ANSWERS,
        "examples": engine.words.examples(),
        "first": [asdict(hit) for hit in engine.first(FIRST_IMAGES)],
    }


class ThumbnailHandler(BaseHandler):
    """The handler of stored images."""

    async def get(self, split: str, row: str) -> None:
        """Respond with an image as JPEG, of the stored size nearest to `?size=`, in pixels.

        Where the store has encoded rows, it is a picture of kept aspect, with a short side of about
        that size. Without `?size=` it is the smallest size. The status is 400 for an invalid size,
        404 for an image that does not exist, and 304 if the client has it already.

        Args:
            split: The name of the split, from the URL.
            row: The number of the row, as text from the URL.
        """
        gallery = self.service.engine.gallery
        size = self.get_query_argument("size", "1")
        if not re.fullmatch("[0-9]{1,4}", size, re.ASCII):
            self.refuse(400, f"size is {size[:20]!r}: expected a whole number up to 9999.")
            return
        try:
            gallery.check(split, int(row) if re.fullmatch("[0-9]{1,15}", row, re.ASCII) else -1)
        except QueryError as e:
            self.refuse(404, str(e))
            return
        array = gallery.picture_array(split, int(size))
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Etag", f'"{gallery.splits[split].digest[:32]}-{array}-{size}-{int(row)}"')
        if self.check_etag_header():
            self.set_status(304)
            return
        self.set_header("Content-Type", "image/jpeg")

        def draw() -> bytes:
            return gallery.picture(split, int(row), int(size))

        self.finish(await self.in_thread(self.service.thumbs, draw))

    def compute_etag(self) -> str | None:
        """Return None: `get` sets an ETag from the digest of the split before it reads pixels."""
        return None


class UploadHandler(BaseHandler):
    """The handler of uploaded images."""

    def get(self, name: str) -> None:
        """Respond with an uploaded image as JPEG, in the size that the model took; else status 404.

        Args:
            name: The name of the upload, 32 lower-case hexadecimal digits from the URL
                `/given/<name>.jpg`.
        """
        upload = self.service.upload_cache.get(name)
        if upload is None:
            self.refuse(404, "that image is no longer in the cache: upload it again.")
            return
        self.set_header("Content-Type", "image/jpeg")
        self.finish(upload.jpeg)
