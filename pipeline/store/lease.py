"""The lease of a split: one run writes it at a time.

On a disk the lease is a lock that the system releases when the process ends, for whatever reason;
on a file system without locks it is made of files (`pipeline.locks.NumberedLock`). On an
object store it is an object that its holder renews, and that is free when it has not been renewed
for `EXPIRY_SECONDS`.

A run that loses its lease while it is suspended can do no harm when it goes on: the run that took
the lease has removed the folder of temporary files (`Objects.begin`) through which it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import confined
from pipeline.errors import StoreBusyError, StoreError
from pipeline.filesystem import advice_for
from pipeline.locks import UNNAMED, LocksMissingError, NumberedLock, try_lock
from pipeline.store.layout import TEMPORARY
from pipeline.store.local import LocalObjects, make_folders
from pipeline.store.objects import Objects

EXPIRY_SECONDS = 120.0
"""The time after which a lease on an object store that was not renewed is free."""

POLL_SECONDS = 0.5
"""The time between two attempts to acquire a lease that another run holds."""

ENDING_SECONDS = 1.0
"""The time in which a holder on a disk may end before it counts as one.

A process that was killed keeps its files, and so its lock, until its last thread has ended: until
its threads get a processor, and a write that has begun reaches the disk.
"""


@contextlib.contextmanager
def lease(
    objects: Objects,
    split: str,
    *,
    wait: bool,
    on_wait: Callable[[str], None] = lambda holder: None,
) -> Iterator[None]:
    """Hold the lease of *split* inside the block: no other run can hold it meanwhile.

    Nor can the same process hold it twice. The caller calls `objects.begin()` inside the block
    before it writes.

    Entering the block acquires the lease, and its end releases it, also after an error. On a disk
    it is a lock on the file `.tmp/<split>.lock` of the store, which is created and stays; a process
    that is killed releases it. Where the file system has no locks, a numbered file beside it takes
    its place, and on an object store the object `.tmp/<split>.lease.json`, which is removed at the
    end. Either is renewed by a thread until the block ends; 120 s after the last renewal another
    run may take the lease, and the block is not told if that happens.

    Args:
        objects: The objects of the store, which need not exist yet.
        split: The name of the split to be written.
        wait: True to wait for another run that holds the lease, without a time limit; False to
            refuse.
        on_wait: A function that is called with the description of each holder before the wait, such
            as "process 4711 on node1" (default: none). On a disk, a holder is neither described nor
            refused in the first second: it may be a killed process that is about to end.

    Yields:
        None.

    Raises:
        StoreBusyError: The lease is held, and *wait* is false.
        StoreError: The lock file or the object cannot be read or written.
    """
    attempt: _LocalLease | _RemoteLease
    if isinstance(objects, LocalObjects):
        attempt, patience = _LocalLease(objects, split), ENDING_SECONDS
    else:  # a record on an object store does not end with its process
        attempt, patience = _RemoteLease(objects, split), 0.0
    waited_for = None
    holds_from = time.monotonic() + patience
    while (holder := attempt.acquire()) is not None:
        if time.monotonic() < holds_from:
            time.sleep(ENDING_SECONDS / 20)
            continue
        if not wait:
            raise StoreBusyError(
                f"split {split!r} of {objects.url} is being written by {holder}. Wait for it to"
                " end, or pass --wait."
            )
        # A holder is unnamed for a moment as it begins and as it ends, which is no other holder.
        if holder != waited_for and not (waited_for and holder == UNNAMED):
            on_wait(holder)
            waited_for = holder
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        attempt.release()


def _describe_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class _LocalLease:
    def __init__(self, objects: LocalObjects, split: str) -> None:
        self._path = Path(objects.url) / TEMPORARY / f"{split}.lock"
        self._file = -1
        self._numbered: NumberedLock | None = None

    def acquire(self) -> str | None:
        """Acquire the lease if it is free; otherwise return its holder."""
        store = self._path.parent.parent
        try:
            confined.check_inside(self._path.parent, store)
            make_folders(self._path.parent, store)
            return self._acquire()
        except OSError as e:
            raise StoreError(
                f"cannot write to {store}: {e.strerror or e}."
                f" {advice_for(e, 'Choose a writable folder')}."
            ) from e

    def _acquire(self) -> str | None:
        # The file is truncated below: through a link, another file would lose its content.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = confined.open_regular(self._path, flags)
        try:
            free = try_lock(file)
        except LocksMissingError:
            os.close(file)
            self._numbered = NumberedLock(self._path.parent, self._path.name)
            return self._numbered.acquire()
        except OSError:
            os.close(file)
            raise
        if not free:
            holder = os.pread(file, 200, 0).decode(errors="replace").strip()
            os.close(file)
            return holder or UNNAMED
        if not self._is_path_of(file):  # a former holder has removed it since it was opened
            os.close(file)
            return self._acquire()
        self._file = file
        os.ftruncate(file, 0)
        with contextlib.suppress(OSError):  # a full disk: the holder's name is only for messages
            os.pwrite(file, _describe_process().encode(), 0)
        return None

    def _is_path_of(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self._path.lstat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self._numbered is not None:
            self._numbered.release()
        else:
            os.close(self._file)


class _RemoteLease:
    def __init__(self, objects: Objects, split: str) -> None:
        self._objects = objects
        self._name = f"{TEMPORARY}/{split}.lease.json"
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> str | None:
        """Acquire the lease if it is free; otherwise return its holder."""
        if not self._objects.put_new(self._name, self._text()):
            holder = self._holder()
            if holder is not None:
                return holder
            self._objects.put(self._name, self._text())
            # Two runs may have seen the lease expired: the last one to write the record holds it.
            time.sleep(2 * POLL_SECONDS)
            if self._holder() is not None:
                return UNNAMED
        self._thread.start()
        return None

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._holder() is None:
            self._objects.remove(self._name)

    def _holder(self) -> str | None:
        try:
            record = json.loads(self._objects.get(self._name))
            free = record["id"] == self._id or time.time() > record["expires"]
            return None if free else str(record["holder"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _text(self) -> bytes:
        record = {
            "id": self._id,
            "holder": _describe_process(),
            "expires": time.time() + EXPIRY_SECONDS,
        }
        return json.dumps(record).encode()

    def _renew(self) -> None:
        while not self._stop.wait(EXPIRY_SECONDS / 6):
            # A renewal that fails is repeated long before the lease expires.
            with contextlib.suppress(Exception):
                if self._holder() is not None:
                    return  # it expired while this machine was suspended, and another run took it
                self._objects.put(self._name, self._text())
