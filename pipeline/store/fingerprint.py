"""The fingerprint of an object: its name, size and XXH3-128, as documents record it."""

from __future__ import annotations

import xxhash

from pipeline.store.commit import ObjectRecord
from pipeline.store.objects import Objects, Writer

BLOCK_BYTES = 4 * 2**20
"""The bytes of a large object that are read at a time."""


def object_digest(objects: Objects, name: str) -> str:
    """Return the XXH3-128 of an object that may be larger than memory: 32 hexadecimal digits.

    Args:
        objects: The objects of the store.
        name: The name of the object, relative to the store.

    Raises:
        FileNotFoundError: The object does not exist.
        OSError: The disk reports an error, or the name is that of a folder.
        StoreError: The name is not valid or that of a device or a pipe, or the request that opens
            the object failed.
        Exception: An object store failed later, while it was read: an error of its own package.
    """
    hasher = xxhash.xxh3_128()
    with objects.open(name) as file:
        while block := file.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def fingerprint(name: str, data: bytes) -> ObjectRecord:
    """Return the record of an object: its name, and the size and digest of its bytes.

    Args:
        name: The name of the object, relative to the store.
        data: All its bytes.

    Returns:
        The record: `name`, `num_bytes`, the length, and `digest`, the XXH3-128 of the bytes as 32
        hexadecimal digits. The store is neither read nor written.
    """
    return ObjectRecord(name, len(data), xxhash.xxh3_128(data).hexdigest())


def is_intact(objects: Objects, record: ObjectRecord) -> bool:
    """Return True if an object exists and has the recorded size and digest.

    It is read completely, unless its size differs.

    Args:
        objects: The objects of the store.
        record: The record of the object: its `name`, relative to the store, `num_bytes`, and
            `digest`, an XXH3-128 as `fingerprint` returns it.

    Raises:
        OSError: The disk reports an error.
        StoreError: The object's name is not valid, or a request to an object store failed.
        Exception: An object store failed while it was read: an error of its own package.
    """
    same_size = objects.size(record.name) == record.num_bytes
    return same_size and object_digest(objects, record.name) == record.digest


class FingerprintWriter:
    """A writer that passes pieces on to another one and computes their size and digest."""

    def __init__(self, writer: Writer) -> None:
        """Wrap a writer to which nothing was written yet.

        Args:
            writer: The writer that gets all bytes.
        """
        self.name = writer.name
        self._writer = writer
        self._num_bytes = 0
        self._hash = xxhash.xxh3_128()

    def write(self, data: memoryview) -> None:
        """Append bytes to the object, and include them in its size and digest.

        Args:
            data: A memoryview, not bytes, of contiguous memory, which may be overwritten as soon as
                this returns.

        Raises:
            StoreError: The bytes cannot be written; an error may be reported by a later call.
        """
        self._hash.update(data)
        self._num_bytes += data.nbytes
        self._writer.write(data)

    def finish(self) -> None:
        """Make the object durable under its name."""
        self._writer.finish()

    def written(self) -> ObjectRecord:
        """Return the record of the bytes written so far.

        Returns:
            The record: `name`, that of the object; `num_bytes`; and `digest`, the XXH3-128 of the
            bytes as 32 hexadecimal digits.
        """
        return ObjectRecord(self.name, self._num_bytes, self._hash.hexdigest())
