"""What the user chooses of a store, before its recipe and its plans are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.store.recipe import MAX_IMAGE_BYTES


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The options of a store. None: as the store has it, or the default of a new one."""

    sizes: tuple[int, ...] = (72, 224, 288)
    fit: str | None = None
    filter: str | None = None
    serves: int | None = None
    exif: bool | None = None
    shard_rows: int | None = None
    chunk_rows: int | None = None
    codec: str | None = None
    missing_end: str | None = None
    max_image_bytes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that no array can have."""
        if not self.sizes or any(not 1 <= size <= 4096 for size in self.sizes):
            raise ValueError(f"sizes are {list(self.sizes)}: expected numbers from 1 to 4096.")
        if len(set(self.sizes)) != len(self.sizes):
            raise ValueError(f"sizes are {list(self.sizes)}: one is given twice.")
        if self.max_image_bytes is not None and self.max_image_bytes < 1:
            raise ValueError(
                f"max_image_bytes is {self.max_image_bytes}: expected at least 1 byte."
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}: expected 0 to 2^64 - 1.")


DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "fit": "crop",
        "filter": "bicubic",
        "exif": False,
        "shard_rows": 1024,
        "chunk_rows": 16,
        "codec": "none",
        "missing_end": "refuse",
        "max_image_bytes": MAX_IMAGE_BYTES,
    }
)
"""The options of a new store that are None in its `Choices`."""
