"""The comparison of the objects of a store with the records of them.

A record has the length and the digest that an object must have; a difference is a problem.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from pipeline.store import records
from pipeline.store.commit import ObjectRecord
from pipeline.store.fingerprint import object_digest
from pipeline.store.objects import Objects


@dataclass(frozen=True, order=True)
class Problem:
    """One object that is missing, damaged or unfinished."""

    name: str
    """The name of the object, relative to the store."""
    description: str
    """The problem: `missing`, `damaged`, or a phrase that follows the name."""

    @property
    def unfinished(self) -> bool:
        """True if the object does not exist yet; False if it is wrong."""
        return self.description.startswith("not finished")


def check_object(objects: Objects, record: ObjectRecord) -> Problem | None:
    """Compare one object with the record of it; it is read completely unless its length is wrong.

    Args:
        objects: The objects of the store.
        record: The name, size and digest that it must have.

    Returns:
        The problem, or None if the object is intact. Its `name` is that of the object, and its
        `description` is `missing`, also for a folder, a device or a pipe; `damaged`; or a phrase on
        the wrong length or on the error of the disk.

    Raises:
        StoreError: The name is not valid, or a request to an object store failed.
        OSError: The object cannot be examined, for example for lack of permission for its folder.
        Exception: An object store failed while it was read: an error of its own package.
    """
    size = objects.size(record.name)
    if size is None:
        return Problem(record.name, "missing")
    if size != record.num_bytes:
        return Problem(record.name, f"has {size:,} bytes, {record.num_bytes:,} were committed")
    try:
        digest = object_digest(objects, record.name)
    except OSError as e:
        return Problem(record.name, f"cannot be read: {e.strerror or e}")
    return None if digest == record.digest else Problem(record.name, "damaged")


def check_objects(
    objects: Objects, recorded: Iterable[ObjectRecord], *, threads: int = 0
) -> Iterator[tuple[ObjectRecord, Problem | None]]:
    """Compare objects with their records, with several threads, and yield each with its problem.

    An object is read completely unless its length is wrong.

    Args:
        objects: The objects of the store.
        recorded: The records to compare with, such as the `objects` of a commit: `name`,
            `num_bytes` and `digest` of each object.
        threads: The number of threads that read (default 0: one per core, at most 16).

    Yields:
        Pairs: the record of an object, in the order of *recorded*, and its problem, with the
        attributes `name` and `description` (`missing`, `damaged` or a phrase); None in place of
        the problem if the object is intact.

    Raises:
        StoreError: A name is not valid, or a request to an object store failed.
        OSError: An object cannot be examined, for example for lack of permission for its folder.
        Exception: An object store failed while it was read: an error of its own package.
    """

    def check(written: ObjectRecord) -> tuple[ObjectRecord, Problem | None]:
        return written, check_object(objects, written)

    workers = threads or min(records.READERS, os.cpu_count() or 1)
    todo = iter(recorded)
    with ThreadPoolExecutor(workers, "check") as pool:
        # A few at a time: `map` would submit the whole list, and results would pile up.
        while group := list(islice(todo, 8 * workers)):
            yield from pool.map(check, group)
