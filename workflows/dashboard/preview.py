"""Previews of a shard that was just stored: thumbnails and quarantined rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg

from pipeline.images.rejection import STATUS_WORDS
from pipeline.store import arrays, layout, table
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan

MAX_THUMBNAILS = 8
MAX_THUMBNAIL_PIXELS = 96
"""The largest side of a thumbnail."""
MAX_QUARANTINED_ROWS = 16
JPEG_QUALITY = 75


@dataclass(frozen=True)
class ShardPreview:
    """A reader of previews from the committed shards of one split."""

    objects: Objects
    plan: Plan
    size: int
    """The stored size that thumbnails are subsampled from, in pixels."""

    def thumbnails(self, shard: int) -> list[dict[str, Any]]:
        """Return thumbnails of readable rows among the first ones of a shard.

        Args:
            shard: The number of the shard, which must be committed.

        Returns:
            The `row`, `caption` (its key) and `jpeg` (the bytes of a JPEG file with a side of at
            most 96 px) of each, at most 8, from the first 16 rows; empty if none of these is
            readable.

        Raises:
            FileNotFoundError: The shard is not committed, or the split has no images of `size`.
            StoreDamagedError: The shard's part of the table is damaged.
            ValueError: A chunk of images is damaged.
        """
        lines = self._lines(shard, ["row", "key", "status"])[: 2 * MAX_THUMBNAILS]
        readable = [line for line in lines if line["status"] == 0][:MAX_THUMBNAILS]
        if not readable:
            return []
        first, last = readable[0]["row"], readable[-1]["row"]
        pixels = arrays.read_pixel_rows(self.objects, self.plan.split, self.size, first, last + 1)
        step = -(-self.size // MAX_THUMBNAIL_PIXELS)
        return [
            {
                "row": line["row"],
                "caption": line["key"],
                "jpeg": simplejpeg.encode_jpeg(
                    np.ascontiguousarray(pixels[line["row"] - first, ::step, ::step]),
                    quality=JPEG_QUALITY,
                ),
            }
            for line in readable
        ]

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
