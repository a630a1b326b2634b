"""Copies shards to a local disk once, for all ranks of a node, while training runs.

    AREA/<set>/<object>       a complete shard that matches the digest in its commit
    AREA/<set>/<object>.copy  a copy in progress, locked by its process; if that was killed, the
                              next process starts it again

The name of a copy set is a hash of the digests of recipe and plan, which determine every pixel, of
what determines the bytes of encoded rows, and of the user: the same split under another address
uses the same copies, and no user reads files that another wrote. All locks are locks of the
operating system, which end with their process. Copy sets that no process uses are removed when
space is short (`StagingFolder`), least recently used first. If a split does not fit, part of it is
copied: an epoch reads every row, so evicting some rows for others would gain nothing.
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
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.filesystem import advice_for
from pipeline.loader.pixel_reader import RowSource
from pipeline.loader.staging_folder import (
    COPY_SUFFIX,
    LAST_USE_NAME,
    StagingFolder,
    folder_below,
    locked,
    open_lockable,
    split_name,
)
from pipeline.locks import try_lock
from pipeline.store import layout, records
from pipeline.store.open import open_objects
from pipeline.store.split import Split

NUM_COPY_THREADS = 4
"""The number of threads that copy shards."""

PIECE_BYTES = 8 * 2**20
"""The bytes that a thread copies between two checks for a stop request."""

LOCK_POLL_SECONDS = 0.02
"""The pause between two attempts to acquire a lock that another process holds."""

COPY_POLL_SECONDS = 0.5
"""The pause between two checks for copies that other processes have completed."""


class ShardCopySet:
    """The local copies of a split. `start` and `stop` are counted and may be called repeatedly."""

    def __init__(self, split: Split, folder: Path, *, limit_bytes: int | None) -> None:
        """Open the copy set and register its complete copies; copy nothing yet.

        Args:
            split: The split to copy, with the sizes and encoded rows that are copied.
            folder: Folder on a local disk.
            limit_bytes: Maximum bytes of everything in *folder*; None for 90 % of the free space.

        Raises:
            StoreError: The folder is not writable.
        """
        self._arrays = (*map(str, split.sizes), *split.encoded)
        """The names of the arrays whose shards are copied: sizes as text, then encoded rows."""
        # Of encoded rows also what decides their bytes: two stores of one plan may differ in it.
        encoders = [
            f" {name} {rows.plan.encoder} {rows.plan.span_bytes} {rows.plan.chunk_bytes}"
            for name, rows in split.encoded.items()
        ]
        identity = f"2 {os.geteuid()} {split.recipe.digest} {split.plan.digest}{''.join(encoders)}"
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
        """The number of rows that were read from copies, summed over arrays."""
        self._staged = {name: np.zeros(split.plan.num_shards, bool) for name in self._arrays}
        try:
            self._area = StagingFolder(folder, limit_bytes)
            with self._area_locked() as lock_held:
                assert lock_held  # `stop` was not called yet
                self._folder = self._area.open_set(self._name)
                weakref.finalize(self, os.close, self._folder).atexit = False
                use_file = open_lockable(self._folder, LAST_USE_NAME)
                weakref.finalize(self, os.close, use_file).atexit = False
                # Held until this object is gone. It always succeeds: eviction, which takes it
                # exclusively, needs the lock of the area, which is held here.
                try_lock(use_file, shared=True)
                os.utime(use_file)  # sets are evicted in the order of their last use
        except OSError as e:
            raise StoreError(
                f"cannot stage in {folder}: {e.strerror or e}."
                f" {advice_for(e, 'Pass a folder on a disk of this machine')}."
            ) from e
        self._missing = [(name, n) for n in range(split.plan.num_shards) for name in self._arrays]
        self._take_complete_copies()

    @property
    def split(self) -> Split:
        """The split with the folder of copies as its store."""
        return replace(self._split, objects=open_objects(str(self.root)))

    @property
    def num_staged(self) -> int:
        """The number of complete copies of shards, summed over arrays."""
        return int(sum(is_staged.sum() for is_staged in self._staged.values()))

    def staged(self, array: str) -> NDArray[np.bool_]:
        """Return which shards of one array have a complete local copy.

        Args:
            array: The name of the array: one of the split's sizes as text, or of encoded rows.

        Returns:
            (num_shards,) bool, the array itself, which must only be read: threads that copy set
            further elements to True.

        Raises:
            KeyError: The split was opened without *array*.
        """
        return self._staged[array]

    def check(self) -> None:
        """Raise the error that a copying thread met, if the store caused it.

        Raises:
            StoreDamagedError: A shard does not match its commit.
        """
        if self._error is not None:
            raise self._error

    def count(self, num_rows: int) -> None:
        """Add to the number of rows that were read from copies (`rows_read`); it is thread-safe.

        Args:
            num_rows: The number of further rows of one array.
        """
        with self._lock:
            self.rows_read += num_rows

    def start(self, rank: int, world: int) -> None:
        """Copy in background threads until each caller has called `stop`, or all is copied.

        It returns at once. Each call must be followed by one of `stop`; until the last of these,
        further calls are only counted. A shard that does not match its commit, or a commit of an
        unknown format, ends the copying, and `check` raises the error. A full or failing local disk
        and the limit of its folder end it without an error. In both cases later calls copy nothing.
        A shard that the store cannot deliver is tried again.

        Args:
            rank: The rank of the caller, 0 to *world* - 1; that of the first caller counts. Ranks
                start at different shards, so that they share the work.
            world: The number of ranks, at least 1.
        """
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._stopping.clear()
                first = rank * len(self._missing) // world
                self._missing = [*self._missing[first:], *self._missing[:first]]
                self._thread = threading.Thread(target=self._run, name="staging", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the copying of one caller of `start`; after the last, wait for the threads.

        Call it exactly once for each call of `start`.
        """
        # The lock is held until the threads have ended: a `start` in between would clear the
        # request to stop, and the join below would wait for all remaining copies.
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._thread is not None:
                self._stopping.set()
                self._thread.join()
                self._thread = None

    # --- copying ------------------------------------------------------------------------------

    def _run(self) -> None:
        with ThreadPoolExecutor(NUM_COPY_THREADS, "staging") as pool:
            self._take_complete_copies()
            while self._missing and self._is_active():
                num_before = self.num_staged
                list(pool.map(self._try_one, self._missing))
                self._take_complete_copies()
                if self.num_staged == num_before:  # other processes hold the remaining shards
                    self._stopping.wait(COPY_POLL_SECONDS)

    def _is_active(self) -> bool:
        return not self._stopping.is_set() and not self._full and self._error is None

    def _take_complete_copies(self) -> None:
        for array in self._arrays:
            complete = self._complete_copies(array)
            for missing_array, shard in self._missing:
                if missing_array == array and self._object(array, shard)[1] in complete:
                    self._staged[array][shard] = True
        self._missing = [(array, n) for array, n in self._missing if not self._staged[array][n]]

    def _complete_copies(self, array: str) -> set[str]:
        """Return the names of the files in the folder of one array, links excluded."""
        folders, _ = self._object(array, 0)
        try:
            with folder_below(self._folder, folders) as folder, os.scandir(folder) as entries:
                return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        except OSError:  # the folder does not exist yet, or is a link
            return set()

    def _try_one(self, array_and_shard: tuple[str, int]) -> None:
        """Copy one shard unless another process holds its lock."""
        if not self._is_active():
            return
        folders, name = self._object(*array_and_shard)
        try:
            with (
                folder_below(self._folder, folders, make=True) as folder,
                locked(folder, name + COPY_SUFFIX) as file,
            ):
                if file is None:
                    return
                try:
                    # Another process may have completed it since the list of missing ones was made.
                    if not _is_regular_file(folder, name) and self._copy(*array_and_shard, file):
                        os.rename(name + COPY_SUFFIX, name, src_dir_fd=folder, dst_dir_fd=folder)
                        self._staged[array_and_shard[0]][array_and_shard[1]] = True
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name + COPY_SUFFIX, dir_fd=folder)
        except StoreError as e:
            self._error = e
        except OSError:  # the local disk is full or failing: rows still come from the store
            self._full = True

    def _copy(self, array: str, shard: int, file: int) -> bool:
        """Copy a shard to descriptor *file*; return True if it is complete."""
        plan = self._split.plan
        commit = records.load_commit(self._split.objects, plan.split, shard)
        if commit is None or commit.plan != plan.digest:
            return False  # not committed: no batch contains its rows
        record = commit.shard_objects.get(array)
        if record is None or not self._reserve(file, record.num_bytes):
            return False
        digest = xxhash.xxh3_128()
        for start in range(0, record.num_bytes, PIECE_BYTES):
            if self._stopping.is_set():  # a full disk does not end it: this shard has its space
                return False
            try:
                data = self._split.objects.read(record.name, start, PIECE_BYTES)
            except Exception:  # noqa: BLE001 - any network error; reading rows meets it too
                return False
            digest.update(data)
            if os.pwrite(file, data, start) < len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
        if digest.hexdigest() != record.digest:
            raise StoreDamagedError(f"{record.name} is damaged. Run `tesserae repair`.")
        os.fsync(file)  # before the rename: a copy under its final name must be complete on disk
        return True

    def _object(self, array: str, shard: int) -> tuple[Sequence[str], str]:
        return split_name(layout.array_shard(self._split.plan.split, array, shard))

    # --- space and locks ----------------------------------------------------------------------

    def _reserve(self, file: int, num_bytes: int) -> bool:
        """Extend *file* to *num_bytes* if that fits; return True if it does."""
        with self._area_locked() as lock_held:
            if not lock_held:
                return False
            # An earlier attempt may have left bytes, which must not count twice.
            os.ftruncate(file, 0)
            if self._area.evict_for(num_bytes, self._name):
                # At full length under the lock, so that other processes count the space as used.
                os.ftruncate(file, num_bytes)
                return True
            self._full = True
            return False

    @contextlib.contextmanager
    def _area_locked(self) -> Iterator[bool]:
        """Hold the lock of the area inside the block; yield False, unlocked, after `stop`."""
        while not self._stopping.is_set():
            with self._area.locked() as lock:
                if lock is not None:
                    yield True
                    return
            self._stopping.wait(LOCK_POLL_SECONDS)
        yield False


def _is_regular_file(folder: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


class StagedReader:
    """A `RowSource` that reads rows from complete local copies, else from the store."""

    def __init__(
        self,
        copies: ShardCopySet,
        split: Split,
        array: str,
        copy_reader: RowSource,
        store_reader: RowSource,
    ) -> None:
        """Combine two readers; nothing is read yet.

        Args:
            copies: The copies.
            split: The split.
            array: The name of the array: a size in pixels as text, or that of encoded rows.
            copy_reader: Reader of the copies.
            store_reader: Reader of the store.
        """
        self._copies = copies
        self._staged = copies.staged(array)
        self._shard_rows = split.recipe.shard_rows
        self._chunks_per_shard = split.recipe.shard_rows // split.recipe.chunk_rows
        self._copy_reader = copy_reader
        self._store_reader = store_reader

    def gather(self, rows: NDArray[np.int64], out: NDArray[Any], disk: Executor) -> str:
        """Put *rows* into *out*, from local copies where they are complete.

        Args:
            rows: The rows of the split, (n,) int64, in any order, also repeated; that they are 0 to
                the split's number of rows - 1 is not checked.
            out: (n, ...), contiguous; element i becomes row i. After an error its contents are
                arbitrary.
            disk: The threads that may block on reads from the store, such as a
                `ThreadPoolExecutor`; they have ended their reads when this returns or raises.

        Returns:
            The method of reading: `mapped`, `preadv`, `direct` or `chunks`; that of the store if
            some rows came from copies and others from the store.

        Raises:
            StoreDamagedError: A shard or a copy is missing or damaged, or a copying thread found
                such damage in the store before.
            StoreError: A shard or a copy cannot be read.
        """
        self._copies.check()
        is_staged = self._staged[rows // self._shard_rows]
        if is_staged.all():
            return self._gather_copies(rows, out, disk)
        if not is_staged.any():
            return self._store_reader.gather(rows, out, disk)
        # Mixed: gather each half into its own array, and put the rows back in order.
        method = ""
        for gather, selection in (
            (self._gather_copies, is_staged),
            (self._store_reader.gather, ~is_staged),
        ):
            part = np.empty((int(selection.sum()), *out.shape[1:]), out.dtype)
            method = gather(rows[selection], part, disk)
            out[selection] = part
        return method

    def _gather_copies(self, rows: NDArray[np.int64], out: NDArray[Any], disk: Executor) -> str:
        try:
            method = self._copy_reader.gather(rows, out, disk)
        except StoreDamagedError as e:  # the copy is damaged, not necessarily the store
            raise StoreDamagedError(
                f"a staged copy in {self._copies.root} is damaged: {str(e).partition(' Run ')[0]}"
                " Delete that folder."
            ) from None
        self._copies.count(len(rows))
        return method

    def chunks_to_prefetch(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return those of *chunks* that the reader of copies or of the store would read ahead.

        Args:
            chunks: The numbers of chunks, (n,) int64, counted from 0 over the whole split.

        Returns:
            (m,) int64, m <= n, those with a local copy first.
        """
        is_staged = self._staged[chunks // self._chunks_per_shard]
        return np.concatenate(
            [
                self._copy_reader.chunks_to_prefetch(chunks[is_staged]),
                self._store_reader.chunks_to_prefetch(chunks[~is_staged]),
            ]
        )

    def prefetch(self, chunk: int, disk: Executor) -> None:
        """Read one chunk ahead from its local copy if that is complete, otherwise from the store.

        Args:
            chunk: The number of the chunk, counted from 0 over the whole split.
            disk: The threads that may block on reads from the store.

        Raises:
            StoreError: The chunk cannot be read, or is damaged.
        """
        is_staged = self._staged[chunk // self._chunks_per_shard]
        (self._copy_reader if is_staged else self._store_reader).prefetch(chunk, disk)
