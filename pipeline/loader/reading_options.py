"""How a loader reads a split. Nothing here changes which batches it yields, or their contents."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.loader.arguments import positive_number

CHECKSUMS: dict[str, bool | None] = {"auto": None, "never": False, "once": True}
"""The values of *checksum*: True compares chunks with their checksums, False does not, None does so
for the chunks that memory can hold."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The threads, memory and checks of a loader.

    Raises:
        ValueError: A value is invalid.
    """

    threads: int | None = None
    """Number of threads that gather batches. None: one per core, and ranks on one machine share its
    cores; at most 4 in each rank for stored squares, which are only copied."""
    pin_memory: bool | None = None
    """True to place batches in page-locked memory. None: True if CUDA is available."""
    prefetch_bytes: int = 512 * 2**20
    """Maximum bytes of batches that are gathered ahead of the training step (default: 512 MiB)."""
    cache_bytes: int | None = None
    """Maximum bytes of pixels, for each size, or of encoded rows, in the cache of a store that is
    read in whole chunks: one that is compressed or remote, or larger than memory and read in
    windows. None: two windows; 1 GiB in random order."""
    checksum: str = "auto"
    """When chunks of an uncompressed local store are compared with their checksums. `once` reads
    and compares the whole chunk at the first read of one of its rows. `never` leaves verification
    to `tesserae verify`. `auto` means `once` for what memory can hold, and `never` for the part of
    a larger split that bypasses the page cache, and for encoded rows that memory cannot hold.
    Chunks of other stores are compared at every read."""

    def __post_init__(self) -> None:
        """Check the values, and convert integers of other libraries."""
        if self.checksum not in CHECKSUMS:
            expected = ", ".join(CHECKSUMS)
            raise ValueError(f"checksum is {self.checksum!r}: expected one of {expected}.")
        for name in ("threads", "prefetch_bytes", "cache_bytes"):
            _convert_to_integer(self, name)


@dataclass(frozen=True)
class Staging:
    """A folder on a local disk to which shards are copied once and verified.

    All ranks of a machine and later runs of the user share the copies. The first epoch reads from
    the store meanwhile. Other files in the folder are not changed.

    Raises:
        ValueError: *max_bytes* is invalid.
    """

    dir: str | os.PathLike[str]
    """Path of the folder, which is created if it does not exist."""
    max_bytes: int | None = None
    """Maximum bytes of everything in the folder. Copies of other stores that no process uses are
    removed to make room. If a split does not fit, part of it is copied. None: 90 % of the free
    space."""

    def __post_init__(self) -> None:
        """Check the limit, and convert the path to text."""
        object.__setattr__(self, "dir", os.fspath(self.dir))
        _convert_to_integer(self, "max_bytes")


def _convert_to_integer(settings: Reading | Staging, name: str) -> None:
    """Convert a field to a Python int of at least 1; None stays."""
    value = getattr(settings, name)
    if value is not None:
        object.__setattr__(settings, name, positive_number(name, value))
