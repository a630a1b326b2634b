"""The lease of a split: one run writes it at a time.

On a disk it is a lock that the system drops with the process, however that ends; where the file
system has no locks, one made of files (`pipeline.filesystem.NumberedLock`). On an object store it
is an object that its holder renews; one that was not renewed for `EXPIRES` seconds is free.

A run that loses its lease while it is stopped can do no harm when it goes on: the run that took it
has removed its folder of temporary files (`Objects.begin`), without which nothing is written.
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
from pipeline.filesystem import LocksMissingError, NumberedLock, cure, try_lock
from pipeline.store.layout import TEMPORARY
from pipeline.store.objects import LocalObjects, Objects, make_folders

EXPIRES = 120.0
"""Seconds after which a lease on an object store that nobody renewed is free."""

WAIT_STEP = 0.5
"""Seconds between two looks at a lease that is held."""


@contextlib.contextmanager
def lease(
    objects: Objects,
    split: str,
    *,
    wait: bool,
    waiting: Callable[[str], None] = lambda holder: None,
) -> Iterator[None]:
    """Hold the lease of *split*.

    Args:
        objects: The store.
        split: The split that is to be written.
        wait: Whether to wait for a run that holds it.
        waiting: Told once who holds it, before the wait.

    Raises:
        StoreBusyError: Another run holds it, and *wait* is false.
    """
    held = _Lock(objects, split) if isinstance(objects, LocalObjects) else _Record(objects, split)
    waited_for = None
    while (holder := held.acquire()) is not None:
        if not wait:
            raise StoreBusyError(
                f"split {split!r} of {objects.url} is being written by {holder}. Wait for it to"
                " end, or pass --wait."
            )
        if holder != waited_for:
            waiting(holder)
            waited_for = holder
        time.sleep(WAIT_STEP)
    try:
        yield
    finally:
        held.release()


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class _Lock:
    def __init__(self, objects: LocalObjects, split: str) -> None:
        self._path = Path(objects.url) / TEMPORARY / f"{split}.lock"
        self._file = -1
        self._numbered: NumberedLock | None = None

    def acquire(self) -> str | None:
        """Take the lease if it is free; otherwise who holds it."""
        store = self._path.parent.parent
        try:
            confined.check_inside(self._path.parent, store)
            make_folders(self._path.parent, store)
            return self._acquire()
        except OSError as e:
            raise StoreError(
                f"cannot write to {store}: {e.strerror or e}."
                f" {cure(e, 'Choose a folder that can be written')}."
            ) from e

    def _acquire(self) -> str | None:
        # It is cut to nothing below: what a link leads to would lose all that it holds.
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
            return holder or "another process"
        self._file = file
        os.ftruncate(file, 0)
        with contextlib.suppress(OSError):  # a full disk: who holds it is not needed to hold it
            os.pwrite(file, _me().encode(), 0)
        return None

    def release(self) -> None:
        if self._numbered is not None:
            self._numbered.release()
        else:
            os.close(self._file)


class _Record:
    def __init__(self, objects: Objects, split: str) -> None:
        self._objects = objects
        self._name = f"{TEMPORARY}/{split}.lease.json"
        self._id = uuid.uuid4().hex
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def acquire(self) -> str | None:
        """Take the lease if it is free; otherwise who holds it."""
        if not self._objects.put_new(self._name, self._text()):
            holder = self._holder()
            if holder is not None:
                return holder
            self._objects.put(self._name, self._text())
            time.sleep(2 * WAIT_STEP)  # two may have seen it free: the last to write it has it
            if self._holder() is not None:
                return "another process"
        self._thread.start()
        return None

    def release(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._holder() is None:
            self._objects.remove(self._name)

    def _holder(self) -> str | None:
        try:
            kept = json.loads(self._objects.get(self._name))
            free = kept["id"] == self._id or time.time() > kept["expires"]
            return None if free else str(kept["holder"])
        except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _text(self) -> bytes:
        kept = {"id": self._id, "holder": _me(), "expires": time.time() + EXPIRES}
        return json.dumps(kept).encode()

    def _renew(self) -> None:
        while not self._stop.wait(EXPIRES / 6):
            # A renewal that fails is tried again long before the lease runs out.
            with contextlib.suppress(Exception):
                if self._holder() is not None:
                    return  # it had run out while this machine slept, and somebody took it
                self._objects.put(self._name, self._text())
