"""Previews of a shard that was just stored: thumbnails and quarantined rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.images.rejection import STATUS_WORDS
from pipeline.store import arrays, layout, table
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from workflows.reports.encoded_images import EncodedImages

MAX_THUMBNAILS = 8
MAX_THUMBNAIL_PIXELS = 96
"""The largest side of a thumbnail."""
_NO_PIXELS = np.zeros((1, 1, 3), np.uint8)
"""The image of a quarantined row, which is never shown."""
MAX_QUARANTINED_ROWS = 16
JPEG_QUALITY = 75


@dataclass(frozen=True)
class ShardPreview:
    """A reader of previews from the committed shards of one split."""

    objects: Objects
    plan: Plan
    array: str
    """The image array that thumbnails are made from: `72`, `jpeg256@90`, ..."""

    def thumbnails(self, shard: int) -> list[dict[str, Any]]:
        """Return thumbnails of readable rows among the first ones of a shard.

        Args:
            shard: The number of the shard, which must be committed.

        Returns:
            The `row`, `caption` (its key) and `jpeg` (the bytes of a JPEG file with a side of at
            most 96 px) of each, at most 8, from the first 16 rows; empty if none of these is
            readable.

        Raises:
            FileNotFoundError: The shard is not committed, or the split has no such array.
            StoreDamagedError: The shard's part of the table is damaged.
            ValueError: A chunk of images is damaged.
        """
        lines = self._lines(shard, ["row", "key", "status"])[: 2 * MAX_THUMBNAILS]
        readable = [line for line in lines if line["status"] == 0][:MAX_THUMBNAILS]
        if not readable:
            return []
        first, last = readable[0]["row"], readable[-1]["row"]
        captions = {line["row"]: line["key"] for line in readable}
        images = self._images(first, last + 1)
        return [
            {"row": row, "caption": captions[row], "jpeg": _thumbnail(pixels)}
            for row, pixels in zip(range(first, last + 1), images, strict=True)
            if row in captions
        ]

    def _images(self, start: int, stop: int) -> Iterable[NDArray[np.uint8]]:
        """Return rows *start* to *stop* - 1, each (height, width, 3) uint8 RGB.

        Encoded rows are decoded as the caller iterates: originals may have 500 MB of pixels each.
        """
        if self.array.isdecimal():
            size, split = int(self.array), self.plan.split
            return arrays.read_pixel_rows(self.objects, split, size, start, stop)
        rows = EncodedImages.open(self.objects, self.plan, self.array)
        return (
            np.asarray(rows.decode(data, MAX_THUMBNAIL_PIXELS).pixels)[..., :3]
            if data
            else _NO_PIXELS
            for data in rows.read(start, stop)
        )

    def quarantined(self, shard: int) -> list[dict[str, Any]]:
        """Return the first quarantined rows of a shard.

        Args:
            shard: The number of the shard, which must be committed.

        Returns:
            The `row`, `key`, `status` (in words) and `reason` (empty if there is none) of each, at
            most 16; empty if all rows are readable.

        Raises:
            FileNotFoundError: The shard is not committed.
            StoreDamagedError: The shard's part of the table is damaged.
        """
        lines = self._lines(shard, ["row", "key", "status", "reason"])
        return [
            line
            | {
                "status": STATUS_WORDS.get(line["status"], "unknown"),
                "reason": line["reason"] or "",
            }
            for line in lines
            if line["status"]
        ][:MAX_QUARANTINED_ROWS]

    def _lines(self, shard: int, columns: list[str]) -> list[dict[str, Any]]:
        data = self.objects.get(layout.part(self.plan.split, shard))
        lines: list[dict[str, Any]] = table.decode_part(data).select(columns).to_pylist()
        return lines


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    step = -(-max(pixels.shape[:2]) // MAX_THUMBNAIL_PIXELS)
    subsampled = np.ascontiguousarray(pixels[::step, ::step])
    return bytes(simplejpeg.encode_jpeg(subsampled, quality=JPEG_QUALITY))
