"""Shards copied once to a disk of this node, shared by all its ranks, while training goes on.

    AREA/<set>/<object>       a shard, whole, equal to the digest in its commit
    AREA/<set>/<object>.copy  locked by who copies it; a process that was killed left it to the next

The name of a copy set is made of the digests of recipe and plan, which decide every pixel, and of
the user: the same split under another address has the same copies, and no user reads what another
one wrote. All locks are the system's own and end with their holder. Copy sets that nobody reads are
removed when room is short (`StagingArea`), those that were read longest ago first. A split that
does not fit is copied in part: with all rows wanted all the time, removing some for others would
only make work.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.filesystem import cure, try_lock
from pipeline.loader.reader import Reader
from pipeline.loader.staging_area import (
    COPYING,
    USE,
    StagingArea,
    folder_below,
    locked,
    open_lockable,
    split_name,
)
from pipeline.store import layout, records
from pipeline.store.objects import open_objects
from pipeline.store.split import Split

THREADS = 4
"""Number of threads that copy shards."""

PIECE_BYTES = 8 * 2**20
"""Bytes that are copied before a thread looks whether it is to stop."""

LOCK_POLL_SECONDS = 0.02
"""Time between two tries to get a lock that another process holds."""

COPY_POLL_SECONDS = 0.5
"""Time between two looks at what other processes are copying."""


class Staging:
    """The copies of some sizes of a split. `start` and `stop` may be called again and again."""

    def __init__(self, split: Split, folder: Path, *, limit_bytes: int | None) -> None:
        """Take the copies that exist already; copy nothing yet.

        Args:
            split: What is copied.
            folder: Where to.
            limit_bytes: Most bytes of everything in *folder* (nine tenths of the disk's free ones).

        Raises:
            StoreError: Nothing can be written there.
        """
        identity = f"2 {os.geteuid()} {split.recipe.digest} {split.plan.digest}"
        self._name = hashlib.sha256(identity.encode()).hexdigest()[:32]
        self._split = split
        self.root = folder / self._name
        """The folder of the copy set."""
        self._error: StoreError | None = None
        self._full = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self.rows_read = 0
        """Number of rows that were read from copies, of all sizes."""
        self._staged = {size: np.zeros(split.plan.num_shards, bool) for size in split.sizes}
        try:
            self._area = StagingArea(folder, limit_bytes)
            with self._area_locked() as alone:
                assert alone  # nobody has asked to stop yet
                self._folder = self._area.open_set(self._name)
                weakref.finalize(self, os.close, self._folder).atexit = False
                use = open_lockable(self._folder, USE)
                weakref.finalize(self, os.close, use).atexit = False
                try_lock(use, shared=True)  # nobody else has it: who evicts is alone too
                os.utime(use)
        except OSError as e:
            raise StoreError(
                f"cannot stage in {folder}: {e.strerror or e}."
                f" {cure(e, 'Name a folder on a disk of this machine')}."
            ) from e
        self._missing = [(size, n) for n in range(split.plan.num_shards) for size in split.sizes]
        self._take_complete_copies()

    @property
    def split(self) -> Split:
        """The split, as it is in the copies."""
        return replace(self._split, objects=open_objects(str(self.root)))

    @property
    def num_staged(self) -> int:
        """Shards, of all sizes, that are copied."""
        return int(sum(there.sum() for there in self._staged.values()))

    def staged(self, size: int) -> NDArray[np.bool_]:
        """Which shards of one size are copied: (num_shards,) bool. Grows while it is looked at."""
        return self._staged[size]

    def check(self) -> None:
        """Raise what went wrong in copying, if it was the store's fault.

        Raises:
            StoreDamagedError: A shard is not what its commit says.
        """
        if self._error is not None:
            raise self._error

    def count(self, num_rows: int) -> None:
        """Note that rows were read from copies."""
        with self._lock:
            self.rows_read += num_rows

    def start(self, rank: int, world: int) -> None:
        """Go on copying, in threads, until everyone who called this has called `stop`.

        Args:
            rank: Decides where in the split to begin, so that ranks of a node begin apart.
            world: Number of ranks.
        """
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stopping.clear()
                begin = rank * len(self._missing) // world
                self._missing = [*self._missing[begin:], *self._missing[:begin]]
                self._thread = threading.Thread(target=self._run, name="staging", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Copy no more, and wait until nobody does."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                self._stopping.set()
                self._thread.join()
                self._thread = None

    # --- copying ------------------------------------------------------------------------------

    def _run(self) -> None:
        with ThreadPoolExecutor(THREADS, "staging") as pool:
            self._take_complete_copies()
            while self._missing and self._going():
                before = self.num_staged
                list(pool.map(self._try_one, self._missing))
                self._take_complete_copies()
                if self.num_staged == before:  # other processes are copying the rest
                    self._stopping.wait(COPY_POLL_SECONDS)

    def _going(self) -> bool:
        return not self._stopping.is_set() and not self._full and self._error is None

    def _take_complete_copies(self) -> None:
        for size in self._split.sizes:
            complete = self._complete_copies(size)
            for of_size, shard in self._missing:
                if of_size == size and self._object(size, shard)[1] in complete:
                    self._staged[size][shard] = True
        self._missing = [(size, n) for size, n in self._missing if not self._staged[size][n]]

    def _complete_copies(self, size: int) -> set[str]:
        """Return the names of the regular files in the folder of one size."""
        folders, _ = self._object(size, 0)
        try:
            with folder_below(self._folder, folders) as folder, os.scandir(folder) as entries:
                return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        except OSError:  # not made yet, or a link
            return set()

    def _try_one(self, which: tuple[int, int]) -> None:
        """Copy one shard, unless another process does."""
        if not self._going():
            return
        folders, name = self._object(*which)
        try:
            with (
                folder_below(self._folder, folders, make=True) as folder,
                locked(folder, name + COPYING) as file,
            ):
                if file is None:
                    return
                try:
                    if not _exists(folder, name) and self._copy(*which, file):
                        os.rename(name + COPYING, name, src_dir_fd=folder, dst_dir_fd=folder)
                        self._staged[which[0]][which[1]] = True
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name + COPYING, dir_fd=folder)
        except StoreError as e:
            self._error = e
        except OSError:  # the disk is full or broken: the store is still there
            self._full = True

    def _copy(self, size: int, shard: int, file: int) -> bool:
        """Copy a shard to *file*; return True if all of it was copied."""
        plan = self._split.plan
        commit = records.load_commit(self._split.objects, plan.split, shard)
        if commit is None or commit.plan != plan.digest or str(size) not in commit.arrays:
            return False  # nor are its rows handed out
        written = commit.arrays[str(size)]
        name = layout.shard(plan.split, size, shard)
        if not self._reserve(file, written.num_bytes):
            return False
        hashed = xxhash.xxh3_128()
        for start in range(0, written.num_bytes, PIECE_BYTES):
            if self._stopping.is_set():  # but not because another thread found no room
                return False
            try:
                data = self._split.objects.read(name, start, PIECE_BYTES)
            except Exception:  # noqa: BLE001 - any of a network's; who reads rows hears of it too
                return False
            hashed.update(data)
            if os.pwrite(file, data, start) < len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
        if hashed.hexdigest() != written.digest:
            raise StoreDamagedError(f"{name} is damaged. Run `tesserae repair`.")
        os.fsync(file)  # before it gets its name: a name is what says that a copy is complete
        return True

    def _object(self, size: int, shard: int) -> tuple[Sequence[str], str]:
        return split_name(layout.shard(self._split.plan.split, size, shard))

    # --- room and locks -----------------------------------------------------------------------

    def _reserve(self, file: int, num_bytes: int) -> bool:
        """Make *file* so long, if there is room for that or can be made."""
        with self._area_locked() as alone:
            if not alone:
                return False
            os.ftruncate(file, 0)
            if self._area.make_room(num_bytes, self._name):
                os.ftruncate(file, num_bytes)
                return True
            self._full = True
            return False

    @contextlib.contextmanager
    def _area_locked(self) -> Iterator[bool]:
        """Wait for the lock of the area and yield True; yield False if told to stop."""
        while not self._stopping.is_set():
            with self._area.locked() as lock:
                if lock is not None:
                    yield True
                    return
            self._stopping.wait(LOCK_POLL_SECONDS)
        yield False


def _exists(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


class StagedReader:
    """Gathers rows of one size: from the copy where there is one, else from the store."""

    def __init__(
        self, staging: Staging, split: Split, size: int, near: Reader, far: Reader
    ) -> None:
        """Read nothing yet.

        Args:
            staging: What is copied.
            split: The split.
            size: Side of the squares in pixels.
            near: Reads the copies.
            far: Reads the store.
        """
        self._staging = staging
        self._staged = staging.staged(size)
        self._shard_rows = split.recipe.shard_rows
        self._per_shard = split.recipe.shard_rows // split.recipe.chunk_rows
        self._near = near
        self._far = far

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        """See `Reader`."""
        self._staging.check()
        near = self._staged[rows // self._shard_rows]
        if near.all():
            return self._gather_near(rows, out, disk)
        if not near.any():
            return self._far.gather(rows, out, disk)
        how = ""
        for gather, which in ((self._gather_near, near), (self._far.gather, ~near)):
            part = np.empty((int(which.sum()), *out.shape[1:]), np.uint8)
            how = gather(rows[which], part, disk)
            out[which] = part
        return how

    def _gather_near(self, rows: NDArray[np.int64], out: NDArray[np.uint8], disk: Executor) -> str:
        try:
            how = self._near.gather(rows, out, disk)
        except StoreDamagedError as e:  # the store need not be
            raise StoreDamagedError(
                f"of the copies in {self._staging.root}: {str(e).partition(' Run ')[0]} Delete that"
                " folder."
            ) from None
        self._staging.count(len(rows))
        return how

    def missing(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        near = self._staged[chunks // self._per_shard]
        return np.concatenate([self._near.missing(chunks[near]), self._far.missing(chunks[~near])])

    def expect(self, chunk: int, disk: Executor) -> None:
        """See `Reader`."""
        near = self._staged[chunk // self._per_shard]
        (self._near if near else self._far).expect(chunk, disk)
