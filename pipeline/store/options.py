"""The options of a store, from which its recipe and its plans are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.store.recipe import MAX_IMAGE_BYTES


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The options of a store. None: as the store has it, or the default of a new one."""

    sizes: tuple[int, ...] = (72, 224, 288)
    """The sides of the stored squares in pixels, 1 to 4,096, without repetition."""
    fit: str | None = None
    """How a rectangle becomes a square: `crop`, `pad` or `squish`."""
    filter: str | None = None
    """The resampling filter, one of `pipeline.store.recipe.FILTERS`."""
    serves: int | None = None
    """The side in pixels up to which decoding keeps full detail; None: the largest of `sizes`."""
    exif: bool | None = None
    """True to rotate images by their EXIF orientation."""
    shard_rows: int | None = None
    """The number of rows in a shard, a multiple of `chunk_rows`."""
    chunk_rows: int | None = None
    """The number of rows in a chunk, the unit of checksums and compression."""
    codec: str | None = None
    """The compression of images: `none`, `zstd:LEVEL`, `blosc-lz4` or `blosc-zstd:LEVEL`."""
    missing_end: str | None = None
    """The treatment of JPEGs that lack nothing but their end marker: `refuse` or `keep`."""
    max_image_bytes: int | None = None
    """The maximum length of an image file in bytes; a longer file is quarantined."""
    seed: int = 0
    """The seed of the order of rows, 0 to 2^64 - 1."""

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
"""The options of a new store that are None in its `StoreOptions`."""
