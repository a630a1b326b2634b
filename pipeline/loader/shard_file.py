"""One open shard file of a local store whose chunks lie at computable offsets."""

from __future__ import annotations

import errno
import os
import resource
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store.checksum import has_valid_checksum
from pipeline.store.direct import open_direct


class ShardLayout(Protocol):
    """The lengths and the index of the shard objects of one array."""

    @property
    def framed_bytes(self) -> int:
        """The bytes of a chunk with its checksum."""

    @property
    def index_bytes(self) -> int:
        """The bytes of a shard's index with its checksum."""

    def num_bytes(self, shard: int) -> int:
        """Return the length of one shard object in bytes."""

    def index(self, shard: int) -> bytes:
        """Return the index that ends one shard object, with its checksum."""


class ShardFile:
    """An open shard file. It is closed when the last reference to it is gone."""

    def __init__(
        self, path: Path, name: str, geometry: ShardLayout, shard: int, *, cached: bool = True
    ) -> None:
        """Open the file, and check that its index places chunks at the computed offsets.

        Args:
            path: Path of the file.
            name: Name of the object in the store, for errors.
            geometry: Layout of the shards of the array.
            shard: Number of the shard.
            cached: True to read through the page cache, False to bypass it where the file system
                allows it (default: True).

        Raises:
            StoreDamagedError: The file is missing, or its size or index is wrong.
            StoreError: The file cannot be opened.
        """
        self.name = name
        self.num_bytes = geometry.num_bytes(shard)
        try:
            self.file = os.open(
                path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            )  # a FIFO must not block
        except FileNotFoundError:
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.") from None
        except OSError as e:
            hint = ""
            if e.errno == errno.EMFILE:
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                hint = (
                    f": this process may have {limit:,}; raise that with `ulimit -n {2 * limit}`"
                    " before it starts"
                )
            raise StoreError(f"cannot read {path}: {e.strerror or e}{hint}") from e
        # Closed with the last reference: other threads may read when a cache drops this object.
        weakref.finalize(self, os.close, self.file).atexit = False
        self.check_size()
        self._check_index(geometry, shard)
        if hasattr(os, "posix_fadvise"):
            # No readahead: a row is then one request to the disk, without unrequested pages.
            os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_RANDOM)
        self.direct = None if cached else open_direct(path)
        """A descriptor of the same file for reads that bypass the page cache, or None."""
        if self.direct is not None:
            weakref.finalize(self, os.close, self.direct).atexit = False
        self._framed = geometry.framed_bytes
        info = os.fstat(self.file)
        self.identity = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
        """The device, inode, size and time of change, which identify this version of the file."""

    def read(self, target: memoryview, offset: int) -> None:
        """Fill *target* with the bytes of the file from *offset* on.

        Args:
            target: Writable contiguous memory of single bytes, such as `memoryview(bytearray(9))`;
                it is filled completely.
            offset: The offset in the file, in bytes.

        Raises:
            StoreDamagedError: The file ends before *target* is full.
            StoreError: The file cannot be read.
        """
        while target:
            try:
                num_read = os.preadv(self.file, [target], offset)
            except OSError as e:
                raise StoreError(f"cannot read {self.name}: {e.strerror or e}") from e
            if not num_read:
                self.check_size()
                raise StoreDamagedError(
                    f"{self.name} ends at byte {offset}. Run `tesserae repair`."
                )
            target, offset = target[num_read:], offset + num_read

    def read_cached(self, target: memoryview, offset: int) -> bool:
        """Fill *target* from the page cache, without waiting for the disk.

        Args:
            target: Writable contiguous memory of single bytes; its contents are arbitrary if the
                result is False.
            offset: The offset in the file, in bytes.

        Returns:
            True if the cache held all of the bytes; False otherwise, also if the file ends before.
        """
        try:
            return os.preadv(self.file, [target], offset, os.RWF_NOWAIT) == len(target)
        except (AttributeError, OSError):  # not cached, or no RWF_NOWAIT on this platform
            return False

    def read_chunk(self, chunk: int, memory: NDArray[np.uint8]) -> None:
        """Read a chunk and the checksum behind it, for `check_chunk`; nothing is compared yet.

        Args:
            chunk: The number of the chunk in the shard, from 0.
            memory: (bytes of a chunk + 4,) uint8, contiguous; it is overwritten. Its length decides
                how much is read.

        Raises:
            StoreDamagedError: The file ends before the end of the chunk.
            StoreError: The file cannot be read.
        """
        self.read(memory.data, chunk * self._framed)

    def check_chunk(self, chunk: int, data: NDArray[np.uint8]) -> None:
        """Compare a chunk with the checksum behind it.

        Args:
            chunk: The number of the chunk in the shard, for the error alone.
            data: The chunk and its checksum, (bytes of a chunk + 4,) uint8, as `read_chunk` reads
                them.

        Raises:
            StoreDamagedError: The checksum does not match.
        """
        if not has_valid_checksum(data):
            raise StoreDamagedError(
                f"{self.name} is damaged (chunk {chunk}). Run `tesserae repair`."
            )

    def check_size(self) -> None:
        """Check that the file still has the size of the shard.

        Raises:
            StoreDamagedError: The file is shorter or longer.
            StoreError: It is a pipe or a device, or its size cannot be read.
        """
        try:
            num_bytes = os.lseek(self.file, 0, os.SEEK_END)  # takes a quarter of the time of fstat
        except OSError as e:
            raise StoreError(f"cannot read {self.name}: {e.strerror or e}") from e
        if num_bytes != self.num_bytes:
            raise StoreDamagedError(
                f"{self.name} has {num_bytes:,} bytes: expected {self.num_bytes:,}. Run `tesserae"
                " repair`."
            )

    def _check_index(self, geometry: ShardLayout, shard: int) -> None:
        # An index in any other layout would make the offsets computed for rows wrong.
        data = os.pread(self.file, geometry.index_bytes, self.num_bytes - geometry.index_bytes)
        if data != geometry.index(shard):
            raise StoreDamagedError(f"{self.name} has a damaged index. Run `tesserae repair`.")
