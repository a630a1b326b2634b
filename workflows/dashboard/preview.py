"""What a command shows of a shard that was just stored: thumbnails, and what is in quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg

from pipeline.images.decode import STATUS_WORDS
from pipeline.store import arrays, layout, table
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan

PICTURES = 8
PICTURE_PIXELS = 96
"""Side of a thumbnail, at most."""
QUARANTINED = 16
QUALITY = 75


@dataclass(frozen=True)
class Look:
    """Looks into one split."""

    objects: Objects
    plan: Plan
    size: int
    """The size that thumbnails are made of, in pixels."""

    def pictures(self, shard: int) -> list[dict[str, Any]]:
        """row, caption and jpeg of the first readable rows of *shard*."""
        lines = self._lines(shard, ["row", "key", "status"])[: 2 * PICTURES]
        shown = [line for line in lines if line["status"] == 0][:PICTURES]
        if not shown:
            return []
        first, last = shown[0]["row"], shown[-1]["row"]
        pixels = arrays.read_rows(self.objects, self.plan.split, self.size, first, last + 1)
        step = -(-self.size // PICTURE_PIXELS)
        return [
            {
                "row": line["row"],
                "caption": line["key"],
                "jpeg": simplejpeg.encode_jpeg(
                    np.ascontiguousarray(pixels[line["row"] - first, ::step, ::step]),
                    quality=QUALITY,
                ),
            }
            for line in shown
        ]

    def quarantined(self, shard: int) -> list[dict[str, Any]]:
        """row, key, status and reason of rows of *shard* that are no readable pictures."""
        lines = self._lines(shard, ["row", "key", "status", "reason"])
        return [
            line
            | {
                "status": STATUS_WORDS.get(line["status"], "unknown"),
                "reason": line["reason"] or "",
            }
            for line in lines
            if line["status"]
        ][:QUARANTINED]

    def _lines(self, shard: int, columns: list[str]) -> list[dict[str, Any]]:
        data = self.objects.get(layout.part(self.plan.split, shard))
        found: list[dict[str, Any]] = table.decode_part(data).select(columns).to_pylist()
        return found
