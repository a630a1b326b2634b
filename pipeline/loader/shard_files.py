"""The open shard files of one array, within the limit of open files of the process."""

from __future__ import annotations

import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from pipeline.loader.futures import finish_all
from pipeline.loader.shard_file import ShardFile

MAX_OTHER_FILES = 512
"""The number of file descriptors reserved for files other than shards."""


class ShardFiles:
    """Shard files that are opened on demand and stay open while the limit allows it.

    It is thread-safe.
    """

    def __init__(
        self,
        open_file: Callable[[int], ShardFile],
        on_open: Callable[[int, ShardFile, bool], None],
    ) -> None:
        """Open no file yet.

        Args:
            open_file: Method that opens the file of a shard by its number; several threads may call
                it. The object of both methods is not kept alive, and must exist during `get`.
            on_open: Method that is called with the number, the file, and True if it is another file
                than the one that was open before under that number. Only one thread at a time calls
                it.
        """
        # Weak: a cycle with the reader would keep files open, and mapped, until it is collected.
        self._open_file = weakref.WeakMethod(open_file)
        self._on_open = weakref.WeakMethod(on_open)
        self._lock = threading.Lock()
        self._files: OrderedDict[int, ShardFile] = OrderedDict()
        """The open files, least recently used first."""
        self._identities: dict[int, tuple[int, ...]] = {}

    def get(self, numbers: Iterable[int], disk: Executor) -> dict[int, ShardFile]:
        """Return the files of some shards, opened now where they are not open.

        The soft limit of open files of the process is raised if the shards need it.

        Args:
            numbers: The numbers of the shards.
            disk: The threads that may block, on which files are opened.

        Returns:
            The files by number. A file stays open while the caller refers to it.

        Raises:
            StoreDamagedError: A file is missing, or its size or index is wrong.
            StoreError: A file cannot be opened.
        """
        with self._lock:
            files = {number: self._files.get(number) for number in numbers}
            for number, file in files.items():
                if file is not None:
                    self._files.move_to_end(number)
        # Opened outside the lock: on a network file system this takes milliseconds.
        opening = {
            number: disk.submit(self._open, number)
            for number, file in files.items()
            if file is None
        }
        finish_all(list(opening.values()))
        return {n: opening[n].result() if file is None else file for n, file in files.items()}

    def close_all(self) -> None:
        """Close the files that no caller refers to; later calls open them again."""
        with self._lock:
            self._files.clear()

    def _open(self, number: int) -> ShardFile:
        open_file, on_open = self._open_file(), self._on_open()
        assert open_file is not None  # the reader waits for this call
        assert on_open is not None
        opened = open_file(number)
        with self._lock:
            # Another thread may have opened the same shard meanwhile: the first one is used.
            current = self._files.setdefault(number, opened)
            if current is opened:
                previous = self._identities.get(number, opened.identity)
                self._identities[number] = opened.identity
                on_open(number, opened, previous != opened.identity)
            # Threads that still read a dropped shard hold it, so its file stays open until then.
            if not _may_keep_files_open(opened.file):  # drop the least recently used half
                for _ in range(-(-len(self._files) // 2)):
                    self._files.popitem(last=False)
        return current


def _may_keep_files_open(file: int) -> bool:
    """Return True if a process that has just opened descriptor *file* may keep its files open.

    The system assigns the lowest free descriptor, so its number tells how many files are open. The
    soft limit is raised if the hard limit allows it: 1,024 is usual, and a random order over
    ImageNet keeps 1,252 shards open.
    """
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or file + MAX_OTHER_FILES < limit:
        return True
    if limit == hard:
        return False
    raised = 2 * limit if hard == resource.RLIM_INFINITY else min(2 * limit, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # above the maximum of the system (fs.nr_open)
        return False
    return True
