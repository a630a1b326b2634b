"""The options of a store, from which its recipe and its plans are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pipeline.store.encoding import Encoding, parse_encoding
from pipeline.store.layout import MAX_SIZE
from pipeline.store.recipe import MAX_IMAGE_BYTES

DEFAULT_SIZES = (72, 224, 288)
"""The sides in pixels of the squares that a store gets if nothing else is chosen."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """The options of a store. None: as the store has it, or the default of a new one."""

    sizes: tuple[int, ...] = DEFAULT_SIZES
    """The sides of the stored squares in pixels, 1 to 4,096, without repetition; none for a store
    of encoded rows alone."""
    encoded: tuple[str, ...] = ()
    """The encodings of the rows to store beside the squares: `original` or `jpeg:N@Q`."""
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
        """Refuse arrays that no store can have."""
        if any(not 1 <= size <= MAX_SIZE for size in self.sizes):
            raise ValueError(f"sizes are {list(self.sizes)}: expected numbers from 1 to 4096.")
        if len(set(self.sizes)) != len(self.sizes):
            raise ValueError(f"sizes are {list(self.sizes)}: one is given twice.")
        if not self.sizes and not self.encoded:
            raise ValueError("sizes are []: expected one at least, or an encoding of rows.")
        if len(set(self.encodings)) != len(self.encoded):
            raise ValueError(f"encoded is {list(self.encoded)}: one is given twice.")
        if self.max_image_bytes is not None and self.max_image_bytes < 1:
            raise ValueError(
                f"max_image_bytes is {self.max_image_bytes}: expected at least 1 byte."
            )
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}: expected 0 to 2^64 - 1.")

    @property
    def encodings(self) -> tuple[Encoding, ...]:
        """The encodings of `encoded`, sorted by the names of their arrays.

        Raises:
            ValueError: One of them is neither `original` nor `jpeg:N@Q`.
        """
        parsed = map(parse_encoding, self.encoded)
        return tuple(sorted(parsed, key=lambda encoding: encoding.array_name))

    @property
    def array_names(self) -> tuple[str, ...]:
        """The names of the image arrays: of the sizes, then of the encodings."""
        return (*map(str, self.sizes), *(encoding.array_name for encoding in self.encodings))

    @property
    def largest_side(self) -> int:
        """The side in pixels for which decoded images must have detail: the largest of all arrays.

        The source's own bytes have none, so a store of these alone suffices for the default sizes.
        """
        sides = [*self.sizes, *(encoding.short_side for encoding in self.encodings)]
        return max(sides) or max(DEFAULT_SIZES)


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
