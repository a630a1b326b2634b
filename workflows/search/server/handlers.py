"""The page and its pictures, and what is searched."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workflows.reports.html import encode_jpeg
from workflows.search.engine import MOST_ANSWERS
from workflows.search.gallery import FORMATS, MOST_BYTES
from workflows.search.query import QueryError
from workflows.search.server.base_handler import Handler, Service

FIRST = 24
"""Pictures that are shown before anything was asked."""


class Files(Handler):
    """The page."""

    def get(self) -> None:
        """One of its files."""
        data, kind = self.service.files[self.request.path]
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "no-cache")
        self.finish(data)


class Nothing(Handler):
    """What there is not."""

    def prepare(self) -> None:
        """Say so."""
        super().prepare()
        if not self._finished:
            self.refuse(404, "there is nothing of that name here.")


class Icon(Handler):
    """What browsers ask for by themselves."""

    def get(self) -> None:
        """There is none, and that is no error."""
        self.set_status(204)


class About(Handler):
    """What is searched."""

    async def get(self) -> None:
        """As JSON."""
        self.tell(await self.in_thread(self.service.searches, about, self.service))


def about(service: Service) -> dict[str, Any]:
    """What a page needs to know before it asks."""
    engine = service.engine
    return {
        "store": Path(engine.model.store.rstrip("/")).name,
        "splits": [
            {"name": name, "rows": int(one.readable.sum()), "index": str(one.index)}
            for name, one in engine.embedded.items()
        ],
        "classes": len(engine.model.classes),
        "words": len(engine.words),
        "dim": engine.model.dim,
        "csls": service.csls,
        "formats": list(FORMATS),
        "most_bytes": MOST_BYTES,
        "most_answers": MOST_ANSWERS,
        "examples": engine.words.examples(),
        "first": [asdict(hit) for hit in engine.first(FIRST)],
    }


class Thumb(Handler):
    """A stored picture."""

    async def get(self, split: str, row: str) -> None:
        """As JPEG, of the stored size that is nearest to what is asked for."""
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
        stored = gallery.nearest_size(split, int(size))
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Etag", f'"{gallery.splits[split].digest[:32]}-{stored}-{int(row)}"')
        if self.check_etag_header():
            self.set_status(304)
            return
        self.set_header("Content-Type", "image/jpeg")

        def draw() -> bytes:
            return encode_jpeg(gallery.rows(split, stored, [int(row)])[0])

        self.finish(await self.in_thread(self.service.thumbs, draw))

    def compute_etag(self) -> str | None:
        """Not of the bytes: it is known before they are."""
        return None


class Given(Handler):
    """A picture that was handed in."""

    def get(self, name: str) -> None:
        """As JPEG."""
        found = self.service.handed.get(name)
        if found is None:
            self.refuse(404, "that picture is no longer remembered: hand it in again.")
            return
        self.set_header("Content-Type", "image/jpeg")
        self.finish(found.jpeg)
